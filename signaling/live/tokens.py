"""How many tokens a text has, where nobody can count them. Any process."""


def estimate_tokens(text: str) -> int:
    """A quarter of the ASCII characters and all the others, as clients that keep limits count."""
    if text.isascii():
        return (len(text) + 3) // 4
    others = sum(char > "\x7f" for char in text)
    return (len(text) - others + 3) // 4 + others
