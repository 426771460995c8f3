/** A small line of the last minute, as an SVG made of attributes only (the page forbids inline styles). */

const NS = 'http://www.w3.org/2000/svg';
const POINTS = 60;
const WIDTH = 88;
const HEIGHT = 22;

export class Sparkline {
  /** @type {number[]} */ #values = [];
  #line = document.createElementNS(NS, 'polyline');

  /** @param {number} least the smallest value that fills the height, so that noise near zero looks like zero */
  constructor(least) {
    this.least = least;
    this.node = document.createElementNS(NS, 'svg');
    this.node.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
    this.node.setAttribute('class', 'spark');
    this.node.setAttribute('aria-hidden', 'true');
    this.node.append(this.#line);
  }

  /** @param {number|null} value null leaves the line as it is */
  push(value) {
    if (value !== null && Number.isFinite(value)) this.draw([...this.#values, value].slice(-POINTS));
  }

  /** @param {number[]} values at most 60, oldest first */
  draw(values) {
    this.#values = values;
    const top = Math.max(this.least, ...values);
    const step = WIDTH / (POINTS - 1);
    const first = POINTS - values.length;
    const points = values.map((one, index) => {
      const y = HEIGHT - 1 - (Math.max(0, one) / top) * (HEIGHT - 2);
      return `${((first + index) * step).toFixed(1)},${y.toFixed(1)}`;
    });
    // One point alone would be a speck.
    if (points.length === 1) points.unshift(`${((first - 1) * step).toFixed(1)},${points[0].split(',')[1]}`);
    this.#line.setAttribute('points', points.join(' '));
  }
}
