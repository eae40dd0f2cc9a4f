// The state of the server. `/ready` knows all of it: `/health` stays well while a server drains.

let modelsWanted = true;
let metricsRefused = false;

async function serverState() {
  let response;
  try {
    response = await fetch('ready', { cache: 'no-store', signal: AbortSignal.timeout(5000) });
  } catch {
    return ['unreachable', 'unreachable', 'The server cannot be reached. This page keeps trying.'];
  }
  if (response.status < 500) return ['ready', 'ready', ''];
  const { code, message } = (await response.json().catch(() => null))?.error ?? {};
  if (code === 'loading') return ['loading', 'loading', sentence(message ?? 'the model is loading') + ' You can write already.'];
  if (code === 'draining') return ['draining', 'shutting down', 'The server is shutting down: it takes no new messages.'];
  return ['failed', 'failed', sentence(message ?? `the server answers with status ${response.status}`)];
}

async function look() {
  const [is, label, notice] = await serverState();
  if (is === 'ready' && $('state').dataset.is !== 'ready') modelsWanted = true;
  $('state').dataset.is = $('notice').dataset.is = is;
  $('state').textContent = label;
  $('notice').hidden = !notice;
  // Set only when it changes: a screen reader would read it out at every look.
  if ($('notice').textContent !== notice) $('notice').textContent = notice;
  $('send').disabled = is === 'loading';
  if (is !== 'ready') return;
  if (modelsWanted) await showModels();
  if (!metricsRefused) await showMetrics();
}

async function showModels() {
  modelsWanted = false;
  try {
    const { data } = await (await call('v1/models')).json();
    const chosen = $('model').value || load('localStorage', 'nxd.settings', {}).model;
    $('model').replaceChildren(...data.map(({ id }) => el('option', { textContent: id, selected: id === chosen })));
    $('model').disabled = data.length < 2;
    $('greeting').textContent = `Ask ${data[0].id}`;
  } catch (error) {
    // Without a key there is no use in asking again: the next one starts it anew.
    modelsWanted = error.status !== 401;
  }
}

async function showMetrics() {
  try {
    const text = await (await call('metrics', { background: true, signal: AbortSignal.timeout(5000) })).text();
    const used = Math.max(0, ...samples(text, 'vllm:kv_cache_usage_perc'));
    const percent = Math.round(used * 100);
    const sum = name => samples(text, name).reduce((total, value) => total + value, 0);
    $('kv').firstChild.style.width = `${percent}%`;
    $('kv').toggleAttribute('data-full', used > 0.9);
    $('kv').setAttribute('aria-valuenow', percent);
    $('kv-text').textContent = used > 0 && used < 0.01 ? '< 1 %' : `${percent} %`;
    $('running').textContent = `${sum('vllm:num_requests_running')} running`;
    $('waiting').textContent = `${sum('vllm:num_requests_waiting')} waiting`;
  } catch (error) {
    metricsRefused = [401, 403, 404].includes(error.status);
  }
}

// Prometheus' text: `name{labels} value`, one line for each engine.
function samples(text, name) {
  const own = text.split('\n').filter(line => line.startsWith(name) && ' {'.includes(line[name.length]));
  return own.map(line => Number(line.slice(line.lastIndexOf(' ') + 1))).filter(Number.isFinite);
}

let timer;
async function watch() {
  clearTimeout(timer);
  await look();
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(watch, 2000);
}
document.onvisibilitychange = () => { if (!document.hidden) watch(); };
