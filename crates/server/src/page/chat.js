// The conversation: turns of a question and its answer. `is` says how the answer stands: asking, done, stopped or failed.

let turns = load('sessionStorage', 'nxd.turns', []);
let asking = null; // the AbortController of the answer that streams in
const views = new WeakMap();

// An answer that was streaming in when the page went away cannot be taken up again.
for (const turn of turns) if (turn.is === 'asking') turn.is = 'stopped';

const keep = () => save('sessionStorage', 'nxd.turns', turns);

function view(turn) {
  if (views.has(turn)) return views.get(turn);
  const button = (label, onclick) => el('button', { type: 'button', className: 'plain', textContent: label, onclick });
  const made = {
    thought: el('details', { className: 'thought' }, el('summary'), el('div')),
    answer: el('div', { className: 'answer' }),
    problem: el('div', { className: 'problem' }, el('span'), button('Retry', () => ask(turn))),
    numbers: el('span'),
    again: button('Regenerate', () => ask(turn)),
  };
  made.copy = button('Copy', () => copied(made.copy, turn.answer, made.answer));
  made.facts = el('div', { className: 'facts' }, made.numbers, made.copy, made.again);
  made.problem.setAttribute('role', 'alert');
  const question = el('div', { className: 'question' }, turn.question);
  made.root = el('article', { className: 'turn' }, question, made.thought, made.answer, made.problem, made.facts);
  views.set(turn, made);
  return made;
}

const THOUGHT = /^\s*<think>([^]*?)(<\/think>|$)/;

function paint(turn) {
  const { root, thought, answer, problem, numbers, copy, again, facts } = view(turn);
  const busy = turn.is === 'asking';
  root.classList.toggle('asking', busy);
  // Screen readers say an answer once it is whole, not word by word.
  root.setAttribute('aria-busy', busy);
  const mused = THOUGHT.exec(turn.answer);
  thought.hidden = !mused?.[1].trim();
  thought.firstChild.textContent = mused?.[2] ? 'Thought' : 'Thinking…';
  thought.lastChild.textContent = mused?.[1].trim() ?? '';
  render(answer, mused ? turn.answer.slice(mused[0].length) : turn.answer);
  problem.hidden = turn.is !== 'failed';
  problem.firstChild.textContent = turn.problem ?? '';
  numbers.textContent = factsOf(turn);
  copy.hidden = busy || !turn.answer;
  again.hidden = turn !== turns.at(-1) || asking !== null || turn.is === 'failed';
  facts.hidden = !numbers.textContent && copy.hidden && again.hidden;
}

function factsOf({ is, tokens, exact, speed, first, finish }) {
  const parts = [];
  if (tokens) parts.push(`${exact ? '' : '≈ '}${tokens.toLocaleString('en')} ${tokens === 1 ? 'token' : 'tokens'}`);
  if (speed) parts.push(`${speed.toFixed(1)} tokens/s`);
  if (first) parts.push(`first after ${(first / 1000).toFixed(2)} s`);
  if (is === 'stopped') parts.push('stopped');
  if (is === 'done' && finish === 'length') parts.push('cut off: no tokens left');
  if (is === 'done' && finish === 'abort') parts.push('ended by the server');
  return parts.join(' · ');
}

function paintAll() {
  $('turns').replaceChildren(...turns.map(turn => view(turn).root));
  turns.forEach(paint);
  $('welcome').hidden = turns.length > 0;
  $('stop').hidden = asking === null;
  $('send').hidden = asking !== null;
  follow();
}

// The view follows the newest words until the reader scrolls up.
let following = true;
$('log').onscroll = () => {
  const log = $('log');
  following = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  $('latest').hidden = following;
};
function follow(always) {
  if (following || always) $('log').scrollTop = $('log').scrollHeight;
}

// What is sent: the system prompt and all earlier turns that have an answer. A question without one is left out, because many
// chat templates refuse two questions in a row.
function messagesUpTo(turn) {
  const system = $('system').value.trim();
  const before = turns.slice(0, turns.indexOf(turn)).filter(({ answer }) => answer);
  return [
    ...(system ? [{ role: 'system', content: system }] : []),
    ...before.flatMap(({ question, answer }) => [{ role: 'user', content: question }, { role: 'assistant', content: answer }]),
    { role: 'user', content: turn.question },
  ];
}

function sampling() {
  const given = [...$('sampling').elements].filter(field => field.name && field.value !== '');
  return Object.fromEntries(given.map(field => [field.name, field.valueAsNumber]));
}

function send(question) {
  if (asking || $('send').disabled || !question.trim()) return false;
  const turn = { question, answer: '' };
  turns.push(turn);
  if (ask(turn)) return true;
  turns.pop();
  return false;
}

// Starts an answer, in place of the one that was there. False if it cannot be asked for yet.
function ask(turn) {
  if (asking) return false;
  if (!$('sampling').checkValidity()) {
    showPanel(true);
    $('sampling').querySelector('details').open = true;
    $('sampling').reportValidity();
    return false;
  }
  const body = { messages: messagesUpTo(turn), ...sampling(), stream: true, stream_options: { include_usage: true } };
  if ($('model').value) body.model = $('model').value;
  Object.assign(turn, { answer: '', is: 'asking', problem: null, tokens: 0, exact: false, speed: 0, first: 0, finish: null });
  asking = new AbortController();
  paintAll();
  follow(true);
  keep();
  listen(turn, body, asking);
  return true;
}

async function listen(turn, body, controller) {
  const began = performance.now();
  let last = 0;
  let painting = false;
  const soon = () => {
    if (painting) return;
    painting = true;
    requestAnimationFrame(() => { painting = false; paint(turn); follow(); });
  };
  try {
    const response = await call('v1/chat/completions', { method: 'POST', body: JSON.stringify(body), signal: controller.signal });
    let whole = false;
    for await (const data of events(response.body)) {
      if (data === '[DONE]') { whole = true; break; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Problem(200, sentence(chunk.error.message ?? 'the answer failed'));
      const choice = chunk.choices?.[0];
      if (choice) last = performance.now() - began;
      turn.finish = choice?.finish_reason ?? turn.finish;
      if (choice?.delta?.content) {
        turn.answer += choice.delta.content;
        turn.first ||= last;
        turn.tokens++; // one chunk is about one token; the server's own count comes with the last chunk
      }
      if (chunk.usage) Object.assign(turn, { tokens: chunk.usage.completion_tokens, exact: true });
      // The first token's time is waiting, not speed: the others are counted from there.
      if (turn.first && last > turn.first) turn.speed = Math.max(0, turn.tokens - 1) / (last - turn.first) * 1000;
      soon();
    }
    if (!whole) throw new Problem(0, 'The connection ended before the answer did.');
    turn.is = 'done';
  } catch (error) {
    const problem = error instanceof Problem ? error.message : `The answer could not be read: ${error.message}`;
    Object.assign(turn, controller.signal.aborted ? { is: 'stopped' } : { is: 'failed', status: error.status, problem });
  }
  // A new chat may have begun meanwhile; its state is not this answer's to touch.
  if (asking !== controller) return;
  asking = null;
  keep();
  paintAll();
  watch();
}

const stop = () => asking?.abort();
