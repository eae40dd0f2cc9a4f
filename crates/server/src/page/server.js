// The server. Paths are relative, so that the page also works behind a proxy that serves it under a prefix.

let key = load('sessionStorage', 'nxd.key', '');

class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, { background, ...options } = {}) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (options.body) headers['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(path, { cache: 'no-store', ...options, headers });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, 'The server cannot be reached.');
  }
  if (response.ok) return response;
  const said = (await response.json().catch(() => null))?.error?.message;
  if (response.status === 401 && !background) askForKey();
  const wait = response.headers.get('Retry-After');
  const hint = response.status === 429 && wait ? ` Try again in ${wait} s.` : '';
  throw new Problem(response.status, (said ? sentence(said) : `The server answered with status ${response.status}.`) + hint);
}

const sentence = text => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');

// Server-sent events: an event is the `data:` lines up to an empty line; lines that open with a colon are signs of life.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      for (const line of lines.map(raw => raw.replace(/\r$/, ''))) {
        if (line.startsWith('data:')) data.push(line.slice(5).trimStart());
        if (line || !data.length) continue;
        yield data.join('\n');
        data = [];
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
