/** Settings kept between visits; storage may be forbidden, then they last for the page. */

/** @type {Map<string, string>} */ const unstored = new Map();

export const memory = {
  /** @param {string} name */
  read(name) {
    try {
      return localStorage.getItem(`omnicall.${name}`) ?? unstored.get(name) ?? '';
    } catch {
      return unstored.get(name) ?? '';
    }
  },
  /** @param {string} name @param {string} value */
  write(name, value) {
    unstored.set(name, value);
    try {
      localStorage.setItem(`omnicall.${name}`, value);
    } catch {
      // `unstored` holds it until the page is closed.
    }
  },
};
