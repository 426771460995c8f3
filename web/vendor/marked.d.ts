/** A token as the lexer gives it; which members there are depends on its type. */
export interface Token {
  type: string;
  raw: string;
  [member: string]: any;
}

export function lexer(text: string, options?: { gfm?: boolean; breaks?: boolean }): Token[];
