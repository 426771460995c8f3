"""How cases are made from seeds: one module for each grammar, pure functions of a `Random`."""
