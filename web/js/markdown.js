/**
 * Markdown of a model as elements. Text only ever becomes text nodes: HTML in it is shown as it is written, links lead
 * to http, https and mailto only, and pictures from elsewhere become links, so that nothing is fetched unasked.
 */

/** @typedef {import('../vendor/marked.js').Token} Token */
/** @typedef {{tag: string, attributes?: Record<string, any>, children: Tree[]}|string} Tree an element, or its text */

const MAX_DEPTH = 24;
/** Of emphasis: what the parser needs for it grows with the square. */
const MAX_MARKS = 1000;
const SAFE_LINK = /^(https?:\/\/|mailto:)/i;
/** @type {Record<string, string>} */
const ENTITIES = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0', '#39': "'" };
/** @type {Record<string, string>} */
const INLINE = { strong: 'strong', em: 'em', del: 'del' };

/** @param {string} text @returns {boolean} whether Markdown would show it differently from plain text */
export function looksMarked(text) {
  if ((text.match(/[*_[]/g)?.length ?? 0) > MAX_MARKS) return false;
  return /[*_`~[\]|]|^ {0,3}(#{1,6} |>|[-+] |\d+[.)] |---)|\n|https?:\/\//m.test(text);
}

/**
 * @param {string} text
 * @returns {{thinking: string, answer: string, isThinking: boolean}} what stands between `<think>` marks apart from
 *   the rest; `isThinking`: the second mark has not come yet
 */
export function splitThinking(text) {
  const found = /^\s*<think>/.exec(text);
  if (!found) return { thinking: '', answer: text, isThinking: false };
  const rest = text.slice(found[0].length);
  const end = rest.indexOf('</think>');
  if (end < 0) return { thinking: rest.trim(), answer: '', isThinking: true };
  return { thinking: rest.slice(0, end).trim(), answer: rest.slice(end + '</think>'.length).trimStart(), isThinking: false };
}

/**
 * @param {readonly Token[]} tokens of a block or of a line
 * @param {number} [depth]
 * @returns {Tree[]}
 */
export function treesOf(tokens, depth = 0) {
  if (depth > MAX_DEPTH) return tokens.map((token) => token.raw);
  return tokens.flatMap((token) => treeOf(token, depth + 1));
}

/** @param {Token} token @param {number} depth @returns {Tree[]} */
function treeOf(token, depth) {
  const inner = () => treesOf(token.tokens ?? [], depth);
  if (INLINE[token.type]) return [{ tag: INLINE[token.type], children: inner() }];
  switch (token.type) {
    case 'space':
    case 'def':
      return [];
    case 'paragraph':
      return [{ tag: 'p', children: inner() }];
    case 'heading':
      // Right below the page's own, whatever depth an answer begins with: none is ever skipped.
      return [{ tag: 'h3', attributes: { 'data-depth': token.depth }, children: inner() }];
    case 'blockquote':
      return [{ tag: 'blockquote', children: inner() }];
    case 'code':
      return [{ tag: 'pre', attributes: { tabindex: 0 }, children: [{ tag: 'code', attributes: { 'data-lang': token.lang || undefined }, children: [token.text] }] }];
    case 'hr':
      return [{ tag: 'hr', children: [] }];
    case 'list':
      return [listOf(token, depth)];
    case 'checkbox':
      return [token.checked ? '☑ ' : '☐ '];
    case 'table':
      return [tableOf(token, depth)];
    case 'codespan':
      return [{ tag: 'code', children: [token.text] }];
    case 'br':
      return [{ tag: 'br', children: [] }];
    case 'link':
      return linkOf(token.href, inner());
    case 'image':
      return linkOf(token.href, [token.text || token.href]);
    case 'escape':
      return [token.text];
    case 'text':
      return token.tokens ? inner() : [withoutEntities(token.text)];
    default:
      return [token.raw];
  }
}

/** @param {Token} token @param {number} depth @returns {Tree} */
function listOf(token, depth) {
  const children = token.items.map((/** @type {Token} */ item) => ({ tag: 'li', children: treesOf(item.tokens ?? [], depth) }));
  if (!token.ordered) return { tag: 'ul', children };
  return { tag: 'ol', attributes: token.start > 1 ? { start: token.start } : {}, children };
}

/** @param {Token} token @param {number} depth @returns {Tree} */
function tableOf(token, depth) {
  const row = (/** @type {Token[]} */ cells, /** @type {string} */ tag) => ({
    tag: 'tr',
    children: cells.map((cell) => ({ tag, attributes: { 'data-align': cell.align ?? undefined }, children: treesOf(cell.tokens ?? [], depth) })),
  });
  const head = { tag: 'thead', children: [row(token.header, 'th')] };
  const body = { tag: 'tbody', children: token.rows.map((/** @type {Token[]} */ cells) => row(cells, 'td')) };
  return { tag: 'div', attributes: { class: 'table-box', tabindex: 0 }, children: [{ tag: 'table', children: [head, body] }] };
}

/** @param {unknown} href @param {Tree[]} children @returns {Tree[]} */
function linkOf(href, children) {
  if (typeof href !== 'string' || !SAFE_LINK.test(href)) return children;
  return [{ tag: 'a', attributes: { href, target: '_blank', rel: 'noopener noreferrer nofollow' }, children }];
}

/** @param {string} text */
function withoutEntities(text) {
  return text.replace(/&(#39|[a-z]{2,4});/g, (whole, name) => ENTITIES[name] ?? whole);
}

/** @param {Tree} tree @returns {Node} */
function nodeOf(tree) {
  if (typeof tree === 'string') return document.createTextNode(tree);
  const node = document.createElement(tree.tag);
  for (const [name, value] of Object.entries(tree.attributes ?? {})) {
    if (value !== undefined) node.setAttribute(name, String(value));
  }
  node.append(...tree.children.map(nodeOf));
  return node;
}

/** @type {Promise<typeof import('../vendor/marked.js')>|null} */
let library = null;

/** A growing text as Markdown. Blocks that stay as they were keep their nodes, so that only new ones are read out. */
export class MarkdownBody {
  /** @type {{raw: string, nodes: Node[]}[]} */ #blocks = [];
  #text = '';
  #isPlain = true;

  /** @param {HTMLElement} node owned by this: nobody else changes what is in it */
  constructor(node) {
    this.node = node;
  }

  /**
   * @param {string} text all of it
   * @returns {Promise<void>} when it is shown in its final form; at once as plain text
   */
  async show(text) {
    const isMarked = looksMarked(text);
    if (this.#isPlain || !isMarked) this.#showPlain(text);
    this.#text = text;
    if (!isMarked) return;
    // The parser is fetched with the first answer that needs it.
    library ??= import('../vendor/marked.js');
    const parser = await library.catch(() => null);
    if (!parser) {
      library = null;
      return;
    }
    // Meanwhile more may have come, and the later call shows it.
    if (this.#text !== text) return;
    try {
      const tokens = parser.lexer(text, { gfm: true, breaks: true });
      if (this.#isPlain) this.node.replaceChildren();
      this.#isPlain = false;
      this.#replace(tokens);
    } catch {
      // Nested more deeply than the parser can follow.
      this.#showPlain(text);
    }
  }

  /** @param {string} text */
  #showPlain(text) {
    if (this.#isPlain && this.node.firstChild && text.startsWith(this.#text)) this.node.append(text.slice(this.#text.length));
    else this.node.replaceChildren(text);
    this.#isPlain = true;
    this.#blocks = [];
  }

  /** @param {Token[]} tokens */
  #replace(tokens) {
    const blocks = tokens.filter((token) => token.type !== 'space' && token.type !== 'def');
    let kept = 0;
    while (kept < blocks.length && this.#blocks[kept]?.raw === blocks[kept].raw) kept += 1;
    for (const { nodes } of this.#blocks.splice(kept)) nodes.forEach((one) => /** @type {ChildNode} */ (one).remove());
    for (const token of blocks.slice(kept)) {
      const nodes = treesOf([token]).map(nodeOf);
      this.node.append(...nodes);
      this.#blocks.push({ raw: token.raw, nodes });
    }
  }
}
