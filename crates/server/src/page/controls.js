// The key is asked for when the server refuses a request for want of one.

function askForKey() {
  if ($('key-dialog').open) return;
  $('key-why').textContent = key ? 'The server does not accept the key that was given.' : 'This server asks for an API key.';
  showKeyDialog();
}

function showKeyDialog() {
  $('key-field').value = key;
  $('key-dialog').showModal();
}

$('key').onclick = () => {
  $('key-why').textContent = 'Sent with every request; kept until this tab is closed.';
  showKeyDialog();
};
$('key-cancel').onclick = () => $('key-dialog').close();
$('key-form').onsubmit = event => {
  event.preventDefault();
  key = $('key-field').value;
  save('sessionStorage', 'nxd.key', key);
  $('key-dialog').close();
  modelsWanted = true;
  metricsRefused = false;
  watch();
  const last = turns.at(-1);
  if (last?.is === 'failed' && last.status === 401) ask(last);
};

// Settings outlive the tab; the conversation and the key do not.

function showPanel(open) {
  $('panel').hidden = !open;
  $('settings').setAttribute('aria-expanded', open);
}

function keepSettings() {
  const fields = Object.fromEntries(new FormData($('sampling')));
  save('localStorage', 'nxd.settings', { system: $('system').value, model: $('model').value, fields });
}

const settings = load('localStorage', 'nxd.settings', {});
$('system').value = settings.system ?? '';
for (const [name, value] of Object.entries(settings.fields ?? {})) {
  const field = $('sampling').elements[name];
  if (field) field.value = value;
}
$('panel').oninput = $('model').onchange = keepSettings;
// The fields are empty only after the event.
$('sampling').onreset = () => setTimeout(keepSettings);
$('sampling').onsubmit = event => event.preventDefault();
$('settings').onclick = () => showPanel($('panel').hidden);
$('close').onclick = () => { showPanel(false); $('settings').focus(); };

function fit() {
  $('message').style.height = 'auto';
  $('message').style.height = `${$('message').scrollHeight}px`;
}

// The focus goes where one writes next, but a phone's keyboard would cover what one is about to read.
function write() {
  if (matchMedia('(hover: hover)').matches) $('message').focus();
}

$('message').oninput = fit;
$('message').onkeydown = event => {
  // While an input method composes a letter, Enter picks it.
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $('composer').requestSubmit();
};
$('composer').onsubmit = event => {
  event.preventDefault();
  if (!send($('message').value)) return;
  $('message').value = '';
  fit();
};
$('stop').onclick = () => { stop(); write(); };
$('latest').onclick = () => follow(true);
$('new').onclick = () => {
  stop();
  asking = null;
  turns = [];
  keep();
  paintAll();
  write();
};
for (const starter of $('starters').children) starter.onclick = () => send(starter.textContent);
document.onkeydown = event => {
  if (event.key !== 'Escape' || $('key-dialog').open) return;
  if (asking) stop(); else showPanel(false);
};
window.onpagehide = keep;

paintAll();
follow(true);
watch();
