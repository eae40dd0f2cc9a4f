// Markdown, the part of it that models write most. A text is cut into blocks; each block remembers its source, so that while an
// answer streams in only its last block is built anew, and what is selected or scrolled above stays as it is.

const FENCE = /^(\s*)(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])\s*(\1\s*){2,}$/;

const isRow = line => /^\|.*\|$/.test(line.trim());

function blocks(text) {
  const lines = text.split('\n');
  const found = [];
  const opens = line => line.startsWith('>') || isRow(line) || [FENCE, HEADING, ITEM, RULE].some(mark => mark.test(line));
  for (let at = 0; at < lines.length;) {
    const start = at;
    const line = lines[at++];
    const take = goesOn => { while (at < lines.length && goesOn(lines[at])) at++; return lines.slice(start, at); };
    let build;
    const fence = FENCE.exec(line);
    if (!line.trim()) continue;
    if (fence) {
      const body = take(next => !next.trimStart().startsWith(fence[2])).slice(1);
      at++; // the closing fence, which is not there yet while the block streams in
      const code = body.map(next => next.startsWith(fence[1]) ? next.slice(fence[1].length) : next).join('\n');
      build = () => codeBlock(fence[3], code);
    } else if (RULE.test(line)) {
      build = () => el('hr');
    } else if (HEADING.test(line)) {
      const [, marks, words] = HEADING.exec(line);
      build = () => el('h' + Math.min(5, 2 + marks.length), {}, inline(words));
    } else if (ITEM.test(line)) {
      const goesOn = next => ITEM.test(next) || (/^\s+\S/.test(next) && !FENCE.test(next));
      const items = take(next => goesOn(next) || (!next.trim() && ITEM.test(lines[at + 1] ?? '')));
      build = () => list(items);
    } else if (isRow(line) && /^[\s|:-]+$/.test(lines[at] ?? '')) {
      const rows = take(isRow);
      build = () => table(rows);
    } else if (line.startsWith('>')) {
      const quoted = take(next => next.startsWith('>'));
      build = () => el('blockquote', {}, inline(quoted.map(next => next.replace(/^> ?/, '')).join('\n')));
    } else {
      const words = take(next => next.trim() && !opens(next)).join('\n');
      build = () => el('p', {}, inline(words));
    }
    // The code of a block does not say whether its fence is closed, and need not.
    found.push({ source: lines.slice(start, at).join('\n'), build });
  }
  return found;
}

function list(lines) {
  const levels = []; // from the outermost list to the one that is being filled
  let first;
  for (const line of lines) {
    const item = ITEM.exec(line);
    const last = levels.at(-1)?.node.lastElementChild;
    if (!item) {
      if (line.trim()) last.append(el('br'), inline(line.trim()));
      continue;
    }
    const indent = item[1].length;
    const tag = /\d/.test(item[2]) ? 'ol' : 'ul';
    while (levels.length > 1 && indent < levels.at(-1).indent) levels.pop();
    // Eight levels are more than anybody reads; without an end a hostile answer could nest until the browser gives up.
    if (!levels.length || (indent > levels.at(-1).indent + 1 && levels.length < 8)) {
      const node = el(tag, tag === 'ol' ? { start: parseInt(item[2], 10) } : {});
      if (last) last.append(node); else first = node;
      levels.push({ node, indent });
    }
    levels.at(-1).node.append(el('li', {}, inline(item[3])));
  }
  return first;
}

// The second line only rules off the head.
function table([head, , ...rows]) {
  const fill = (tag, text) => {
    const row = el('tr');
    for (const cell of text.trim().slice(1, -1).split('|')) row.append(el(tag, {}, inline(cell.trim())));
    return row;
  };
  const node = el('table', {}, fill('th', head));
  for (const row of rows) node.append(fill('td', row));
  return el('div', { className: 'table', tabIndex: 0 }, node);
}

const MARKS = [['`', 'code'], ['**', 'strong'], ['*', 'em']];

function inline(text) {
  const nodes = document.createDocumentFragment();
  const unpaired = new Set(); // marks with no partner further on: looked for once, so that any text costs linear time
  let plain = '';
  for (let at = 0; at < text.length;) {
    const [mark, tag] = MARKS.find(([mark]) => text.startsWith(mark, at)) ?? [];
    let end = -1;
    if (mark && !unpaired.has(mark) && (tag === 'code' || /\S/.test(text[at + mark.length] ?? ''))) {
      end = text.indexOf(mark, at + mark.length + 1);
      while (tag !== 'code' && end >= 0 && /\s/.test(text[end - 1])) end = text.indexOf(mark, end + 1);
      if (end < 0) unpaired.add(mark);
      // Three stars are an `em` inside a `strong`: the outer pair closes last.
      else if (mark === '**' && text[at + 2] === '*' && text[end + 2] === '*') end++;
    }
    if (end < 0) {
      plain += mark ?? text[at];
      at += mark?.length ?? 1;
      continue;
    }
    const inside = text.slice(at + mark.length, end);
    nodes.append(plain, el(tag, {}, tag === 'code' ? inside : inline(inside)));
    plain = '';
    at = end + mark.length;
  }
  nodes.append(plain);
  return nodes;
}

function codeBlock(language, code) {
  const text = el('code', {}, code);
  const copy = el('button', { type: 'button', className: 'plain', textContent: 'Copy' });
  copy.onclick = () => copied(copy, code, text);
  return el('figure', { className: 'code' }, el('figcaption', {}, language || 'text', copy), el('pre', { tabIndex: 0 }, text));
}

async function copied(button, words, node) {
  // The clipboard needs HTTPS or localhost; elsewhere the old command copies what is selected.
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(words).catch(() => {});
  } else {
    getSelection().selectAllChildren(node);
    document.execCommand('copy');
  }
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
}

const built = new WeakMap(); // a block's node → the source it was built from

function render(into, text) {
  const wanted = blocks(text);
  while (into.childNodes.length > wanted.length) into.lastChild.remove();
  wanted.forEach(({ source, build }, index) => {
    const old = into.childNodes[index];
    if (old && built.get(old) === source) return;
    const node = build();
    built.set(node, source);
    if (old) old.replaceWith(node); else into.append(node);
  });
}
