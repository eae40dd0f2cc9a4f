'use strict';

const $ = id => document.getElementById(id);

// All text reaches the page as text nodes: nothing that a model or a person writes is ever parsed as HTML.
function el(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

// Storage may be switched off or full; the chat then works and is forgotten on reload.
function load(store, name, otherwise) {
  try { return JSON.parse(window[store].getItem(name)) ?? otherwise; } catch { return otherwise; }
}
function save(store, name, value) {
  try { window[store].setItem(name, JSON.stringify(value)); } catch { /* as above */ }
}
