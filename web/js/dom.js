/** Small helpers around the document; text from the server only ever becomes text nodes. */

import { numberText } from './i18n.js';

/**
 * @param {string} id
 * @returns {any} the element; a missing one is a bug of the page
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element #${id}`);
  return found;
}

/**
 * @param {string} tag
 * @param {{class?: string, text?: string, [attribute: string]: any}} [attributes]
 * @param {...(Node|string)} children
 * @returns {any}
 */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (name === 'text') node.textContent = String(value);
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  node.append(...children);
  return node;
}

/**
 * Writes text only when it differs, so that live regions and selections are not disturbed.
 * @param {Element} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** @param {number} seconds */
export function clockText(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (/** @type {number} */ n) => String(n).padStart(2, '0');
  const hours = Math.floor(whole / 3600);
  const rest = `${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  return hours ? `${hours}:${rest}` : rest;
}

/**
 * @param {number|null|undefined} value
 * @param {string} unit
 * @param {number} [digits]
 */
export function valueText(value, unit, digits = 0) {
  return Number.isFinite(value) ? `${numberText(Number(value), digits)}\u202f${unit}` : '–';
}
