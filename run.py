"""Start omnicall: `python run.py`, or `omnicall` once installed. `--help` tells the options.

`omnicall call URL` is a caller in the terminal, `omnicall check-model DIR` looks through a model's
folder, `omnicall models get NAME` fetches voices and recognisers of the built-in engine."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from server.keeper.keeper import CRASHED, Inheritance, Keeper


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal; the exit code is 0, 1 (cannot start) or 2 (bad configuration).

    `call URL` places a call instead, see `omnicall.client.command`; `check-model DIR` looks through
    the native engine's model, see `engine.minicpmo.check.command`; `models get NAME` fetches models
    of the built-in engine, see `engine.builtin.models_command`.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["call"]:
        # The server's start waits for nothing that only callers need.
        from omnicall.client.command import main as call

        return call(argv[1:])
    if argv[:1] == ["check-model"]:
        return check_model(argv[1:])
    if argv[:1] == ["models"]:
        # By name, as there: nothing else that starts here may load an engine.
        code: int = import_module("engine.builtin.models_command").main(argv[1:])
        return code
    found = Keeper().run()
    return serve(argv, found) if isinstance(found, Inheritance) else found


def serve(argv: Sequence[str], found: Inheritance) -> int:
    """Be the front. The process that keeps this one imports none of what it needs."""
    import os

    import uvloop

    from engine.ipc.logs import log_to
    from server.config_loader import SettingsError, load, parser, render
    from server.front.entrance import StartError
    from server.front.launch import Launch, version
    from server.front.legacy import config_of

    config = config_of(found)
    if config is None:
        args = parser().parse_args(argv)
        if args.version:
            print(f"omnicall {version()}")
            return 0
        try:
            config = load(args, os.environ)
        except SettingsError as error:
            print(f"omnicall: {error}", file=sys.stderr)
            return 2
        if args.print_config:
            print(render(config), end="")
            return 0
    log_to("front", config.log.level, config.log.file, config.log.max_mb)
    try:
        uvloop.run(Launch(config, found).run())
    except StartError as error:
        print(f"omnicall: {error}", file=sys.stderr)
        return 1
    except Exception:  # noqa: BLE001 - the boundary: another front takes this one's place
        traceback.print_exc()
        return CRASHED
    return 0


def check_model(argv: Sequence[str]) -> int:
    """Look through a folder of the native engine's model."""
    try:
        # By name: nothing else that starts here may load an engine, or torch.
        command = import_module("engine.minicpmo.check.command")
    except ModuleNotFoundError as error:
        print(
            f"omnicall check-model needs more packages ({error.name} is missing): "
            "pip install 'omnicall[minicpmo]'",
            file=sys.stderr,
        )
        return 2
    code: int = command.main(argv)
    return code


if __name__ == "__main__":
    sys.exit(main())
