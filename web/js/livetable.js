/** A table whose rows are kept by key and updated in place, so that focus and selection survive each second. */

import { make, setText } from './dom.js';
import { t } from './i18n.js';
import { Sparkline } from './sparkline.js';

/**
 * @template T
 * @typedef {Object} Column
 * @property {string} title the key of its words
 * @property {(item: T) => string} [text]
 * @property {(item: T) => (number|null)} [spark] a line of this value beside the text
 * @property {number} [sparkLeast] the value that fills its height at least
 * @property {(item: T) => string} [tone] 'good', 'warn', 'bad' or ''
 * @property {boolean} [isNumber]
 * @property {(item: T) => HTMLElement} [build] a cell made once a row
 * @property {boolean} [isOptional] hidden while no row has text for it
 */

/** @template T */
export class LiveTable {
  /** @type {Map<string, {row: HTMLElement, cells: {cell: HTMLElement, words: HTMLElement, spark: Sparkline|null}[]}>} */
  #rows = new Map();

  /**
   * @param {HTMLTableElement} table
   * @param {Column<T>[]} columns
   * @param {(item: T) => string} keyOf
   * @param {string} whenEmpty the key of its words
   */
  constructor(table, columns, keyOf, whenEmpty) {
    this.columns = columns;
    this.keyOf = keyOf;
    this.heads = columns.map(({ title, isNumber }) =>
      make('th', { scope: 'col', text: t(title), 'data-i18n': title, class: isNumber ? 'number' : undefined, 'data-column': nameOf(title) }));
    this.body = make('tbody');
    this.empty = make('tr', {}, make('td', { colspan: columns.length, class: 'none', text: t(whenEmpty), 'data-i18n': whenEmpty }));
    this.body.append(this.empty);
    table.replaceChildren(make('thead', {}, make('tr', {}, ...this.heads)), this.body);
  }

  /** @param {T[]} items */
  update(items) {
    const gone = new Set(this.#rows.keys());
    for (const [place, item] of items.entries()) {
      const key = this.keyOf(item);
      gone.delete(key);
      const known = this.#rows.get(key) ?? this.#add(key, item, place);
      this.columns.forEach((column, index) => this.#fill(known.cells[index], column, item));
    }
    for (const key of gone) {
      this.#rows.get(key)?.row.remove();
      this.#rows.delete(key);
    }
    this.empty.hidden = items.length > 0;
    this.columns.forEach((column, index) => {
      if (column.isOptional) this.#showColumn(index, items.some((item) => column.text?.(item)));
    });
  }

  /** @param {number} index @param {boolean} isShown */
  #showColumn(index, isShown) {
    this.heads[index].hidden = !isShown;
    for (const { cells } of this.#rows.values()) cells[index].cell.hidden = !isShown;
  }

  /** @param {string} key @param {T} item @param {number} place among the rows */
  #add(key, item, place) {
    const cells = this.columns.map((column) => {
      const words = make('span');
      const spark = column.spark ? new Sparkline(column.sparkLeast ?? 1) : null;
      const cell = make('td', { class: column.isNumber ? 'number' : undefined, 'data-column': nameOf(column.title) }, ...(spark ? [spark.node] : []), words);
      if (column.build) words.append(column.build(item));
      return { cell, words, spark };
    });
    const row = make('tr', { 'data-key': key }, ...cells.map(({ cell }) => cell));
    // Behind the row that tells of none.
    this.body.insertBefore(row, this.body.children[place + 1] ?? null);
    const made = { row, cells };
    this.#rows.set(key, made);
    return made;
  }

  /**
   * @param {{cell: HTMLElement, words: HTMLElement, spark: Sparkline|null}} place
   * @param {Column<T>} column
   * @param {T} item
   */
  #fill({ cell, words, spark }, column, item) {
    if (column.text) setText(words, column.text(item));
    if (column.tone) cell.dataset.tone = column.tone(item);
    if (column.spark) spark?.push(column.spark(item));
  }
}

/** @param {string} title the key of a column's words @returns {string} what the style sheet calls it */
function nameOf(title) {
  return title.split('.')[1];
}
