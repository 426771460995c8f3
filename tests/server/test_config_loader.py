"""Settings: which source wins, and what a person is told about a value that cannot be used."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.config import SECRETS, Config
from server.config_loader import FIELDS, SettingsError, allowed, build, load, parser, render


def loaded(
    *options: str, environment: Mapping[str, str] | None = None, file: Path | None = None
) -> Config:
    given = [*options, *(("--config", str(file)) if file else ())]
    return load(parser().parse_args(given), environment or {})


def refused(*options: str, environment: Mapping[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(*options, environment=environment)
    text = str(caught.value)
    assert "\n" not in text
    return text


def refused_file(path: Path, text: str) -> str:
    path.write_text(text)
    return refused("--config", str(path))


# ---------------------------------------------------------------- order


def test_defaults_hold_when_nothing_is_given() -> None:
    config = loaded()
    assert config == Config()
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8006)
    assert config.engine.kind == "builtin" and not config.uses_tls and not config.needs_key


def test_command_line_beats_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        "[server]\nport = 1\nhost = '127.0.0.2'\n[engine]\nslots = 2\n[media]\nworkers = 3\n"
    )
    environment = {"OMNICALL_SERVER_PORT": "10", "OMNICALL_ENGINE_SLOTS": "20", "HOME": "/root"}
    config = loaded("--port", "100", environment=environment, file=file)
    assert config.server.port == 100
    assert config.engine.slots == 20
    assert config.media.workers == 3
    assert config.server.host == "127.0.0.2"
    assert config.engine.count == 1


def test_named_options_beat_set() -> None:
    assert loaded("--set", "server.port=5", "--port", "6").server.port == 6


def test_later_set_beats_earlier() -> None:
    assert loaded("--set", "server.port=5", "--set", "server.port = 7").server.port == 7


@pytest.mark.parametrize(
    ("options", "path", "value"),
    [
        (("--host", "0.0.0.0"), "server.host", "0.0.0.0"),
        (("--tls",), "tls.mode", "on"),
        (("--no-tls",), "tls.mode", "off"),
        (("--engine", "echo"), "engine.kind", "echo"),
        (("--script", "a.toml"), "engine.script", "a.toml"),
        (("--model", "/m"), "engine.model", "/m"),
        (("--set", "minicpmo.kv_cache_dtype=fp8"), "minicpmo.kv_cache_dtype", "fp8"),
        (("--set", "builtin.chat.url=http://x/v1"), "builtin.chat.url", "http://x/v1"),
        (("--set", "builtin.chat.send_picture=false"), "builtin.chat.send_picture", False),
        (("--set", "media.video_fps=0.5"), "media.video_fps", 0.5),
        (("--set", "server.allowed_origins=https://a, https://b"), *(
            "server.allowed_origins", ("https://a", "https://b"))),
        (("--set", "server.allowed_origins="), "server.allowed_origins", ()),
        (("--set", "auth.key=equals=signs=are=kept"), "auth.key", "equals=signs=are=kept"),
    ],
)  # fmt: skip
def test_command_line_sets(options: tuple[str, ...], path: str, value: Any) -> None:
    assert reached(loaded(*options), path) == value


def reached(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def test_every_field_can_be_set_by_its_environment_variable() -> None:
    def told(value: object) -> str:
        return ",".join(value) if isinstance(value, tuple) else str(value).lower()

    others = {
        "server.allowed_origins": "https://a.example,https://b.example",
        "builtin.languages": "en,de",
        "tls.mode": "on",
    }
    for path, field in FIELDS.items():
        value = others.get(path, told(field.default))
        config = load(parser().parse_args([]), {field.variable: value})
        assert told(reached(config, path)) == value
    variables = [field.variable for field in FIELDS.values()]
    assert len(set(variables)) == len(variables), "two fields share a variable"


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("server.port=70000", "server.port = '70000': expected a whole number from 0 to 65535"),
        ("server.port=http", "server.port = 'http': expected a whole number from 0 to 65535"),
        ("server.port=-1", "server.port = '-1': expected a whole number from 0 to 65535"),
        ("server.port=8.5", "server.port = '8.5': expected a whole number from 0 to 65535"),
        ("server.port=", "server.port = '': expected a whole number from 0 to 65535"),
        ("media.video_fps=0", "media.video_fps = '0': expected a number above 0 to 10"),
        ("media.video_fps=nan", "media.video_fps = 'nan': expected a number above 0 to 10"),
        ("calls.max_duration_s=inf", "expected a number above 0 to 86400"),
        ("engine.kind=gpt", "engine.kind = 'gpt': expected one of builtin, echo, minicpmo"),
        ("minicpmo.kv_cache_dtype=int8", "kv_cache_dtype = 'int8': expected one of auto, fp8"),
        ("tls.mode=yes", "tls.mode = 'yes': expected one of auto, off, on"),
        ("log.level=chatty", "expected one of debug, error, info, warning"),
        ("builtin.chat.send_picture=perhaps", "expected true or false"),
        (
            "server.trusted_proxies=proxy.example",
            "server.trusted_proxies: 'proxy.example' does not",
        ),
        ("server.trusted_proxies=10.0.0.1/8", "server.trusted_proxies: 10.0.0.1/8 has host bits"),
        ("media.ports=5000", "media.ports = '5000': expected text matching"),
        ("media.ports=600-500", "media.ports = '600-500': expected LOW-HIGH in 1024-65535"),
        ("media.ports=5000-99999", "media.ports = '5000-99999': expected LOW-HIGH"),
        ("media.public_address=" + "9" * 65, "expected at most 64 characters"),
        ("media.turn=turn:a:1", "media.turn: needs media.turn_secret, or"),
        ("media.ice_transport_policy=relay", 'media.ice_transport_policy: "relay" needs media.'),
        ("media.public_address=here", "media.public_address: 'here' does not appear to be an IPv4"),
        ("media.public_address_v6=fe80::x", "media.public_address_v6: 'fe80::x' does not"),
        ("media.addresses=10.0.0.0/8,eth0", "media.addresses: 'eth0' does not appear to be an"),
        ("media.turn=stun:a:1", "media.turn = 'stun:a:1': expected a TURN server"),
        ("media.stun=stun:a:1,turn:b", "media.stun = 'turn:b': expected a STUN server"),
        ("media.stun=a.example", "media.stun = 'a.example': expected stun:HOST:PORT"),
        ("builtin.chat.url=ftp://x", "builtin.chat.url = 'ftp://x': expected an http or https URL"),
        ("auth.key=short", "auth.key: expected at least 16 characters"),
        ("engine.kind=minicpmo", "engine.model: the minicpmo engine needs a model folder"),
        ("tls.cert=/x.pem", "tls.cert and tls.key: give both or none"),
        ("server.prot=1", "there is no field server.prot; did you mean server.port?"),
        ("port=1", "there is no field port"),
        ("server=1", "there is no field server"),
        ("server.port", "--set server.port: expected section.field=value"),
    ],
)
def test_bad_setting_is_named_with_its_value_and_what_is_allowed(
    setting: str, expected: str
) -> None:
    text = refused("--set", setting)
    assert expected in text, text
    assert setting.partition("=")[0].partition(".")[0] in text


def test_error_says_where_the_value_came_from(tmp_path: Path) -> None:
    assert refused("--port", "x").startswith("--port: server.port = 'x'")
    assert refused("--set", "server.port=x").startswith("--set: server.port = 'x'")
    text = refused(environment={"OMNICALL_SERVER_PORT": "x"})
    assert text.startswith("OMNICALL_SERVER_PORT: server.port = 'x'")
    file = tmp_path / "c.toml"
    assert refused_file(file, "[server]\nport = 'x'\n").startswith(f"{file}: server.port = 'x'")


def test_unknown_variable_is_an_error_with_a_suggestion() -> None:
    text = refused(environment={"OMNICALL_SERVER_PROT": "1"})
    assert text == (
        "environment: OMNICALL_SERVER_PROT is not a setting; did you mean OMNICALL_SERVER_PORT?"
    )
    assert "did you mean" not in refused(environment={"OMNICALL_QQQ": "1"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nprot = 1\n", "there is no field server.prot; did you mean server.port?"),
        ("[servers]\nport = 1\n", "there is no field servers.port; did you mean server.port?"),
        ("server = 3\n", "there is no field server"),
        ("[server.port]\nx = 1\n", "there is no field server.port.x"),
        ("[server]\nport = true\n", "server.port = True: expected a whole number"),
        ("[server]\nhost = 5\n", "server.host = 5: expected at most 253 characters"),
        ("[media]\nvideo_fps = nan\n", "media.video_fps = nan: expected a number above 0 to 10"),
        ("[server]\nallowed_origins = [1]\n", "server.allowed_origins = [1]: expected a list"),
        ("port = [\n", "not TOML"),
    ],
)
def test_bad_file_is_named_with_field_and_value(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "c.toml"
    told = refused_file(file, text)
    assert str(file) in told and expected in told


def test_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    assert refused("--config", str(tmp_path / "none.toml")).endswith("No such file or directory")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    assert "not TOML" in refused("--config", str(tmp_path / "bytes.toml"))


def test_certificate_files_must_exist_and_go_with_tls(tmp_path: Path) -> None:
    both = ("--set", "tls.cert=/none.pem", "--set", "tls.key=/none.key")
    assert refused(*both) == "tls.cert = '/none.pem': no such file"
    assert refused(*both, "--no-tls") == "tls.cert: is set while tls.mode is off"
    (tmp_path / "c").touch()
    cert = ("--set", f"tls.cert={tmp_path}/c", "--set", f"tls.key={tmp_path}/k")
    assert refused(*cert) == f"tls.key = '{tmp_path}/k': no such file"


def test_one_of_those_that_write_down_is_named() -> None:
    url = "minicpmo.transcription.url"
    assert (
        refused("--set", f"{url}=localhost")
        == f"{url} = 'localhost': expected an http or https URL"
    )
    both = ("--set", f"{url}=http://localhost/v1", "--set", "minicpmo.transcription.builtin=true")
    assert refused(*both).startswith("minicpmo.transcription: give url or builtin")


@pytest.mark.parametrize("path", ["auth.key", "builtin.chat.api_key"])
def test_error_about_a_secret_does_not_show_it(path: str) -> None:
    text = refused("--set", f"{path}={'hunter2' * 100}")
    assert "hunter2" not in text and f"{path} = ***: expected at most" in text


# ---------------------------------------------------------------- print-config


def test_printed_configuration_is_the_same_when_read_back(tmp_path: Path) -> None:
    config = loaded(
        *("--port", "9", "--engine", "echo", "--set", "media.video_fps=0.25"),
        *("--set", 'server.host=a"b\\c\té', "--set", "server.allowed_origins=https://a,https://b"),
    )
    file = tmp_path / "printed.toml"
    file.write_text(render(config))
    assert loaded(file=file) == config


def test_printed_configuration_has_every_field_with_its_description() -> None:
    text = render(Config())
    table = tomllib.loads(text)
    for path, field in FIELDS.items():
        value: Any = table
        for name in path.split("."):
            value = value[name]
        assert msgspec.convert(value, field.annotation) == field.default
        assert f"# {field.description} ({allowed(field.type)})\n{path.split('.')[-1]} = " in text


def test_printed_configuration_masks_secrets() -> None:
    secrets = {path: f"very-secret-value-of-{path}" for path in SECRETS}
    options = [part for path, value in secrets.items() for part in ("--set", f"{path}={value}")]
    text = render(loaded(*options))
    assert "very-secret" not in text and text.count('"***"') == len(SECRETS)
    assert '"***"' not in render(Config()), "an empty secret is shown as empty"


# ---------------------------------------------------------------- the tree as a whole


def test_building_checks_the_types_again() -> None:
    with pytest.raises(msgspec.ValidationError):
        build({"server.port": 70_000})


def test_option_cannot_be_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        loaded("--por", "1")
    assert "unrecognized arguments: --por" in capsys.readouterr().err


def test_media_workers_are_a_number_or_auto() -> None:
    assert loaded().media.workers == "auto"
    assert loaded("--set", "media.workers=auto", "--set", "engine.slots=3").media.workers == "auto"
    assert loaded(environment={"OMNICALL_MEDIA_WORKERS": "3"}).media.workers == 3
    with pytest.raises(SettingsError, match=r"expected auto or a whole number from 1 to 64"):
        loaded("--set", "media.workers=some")


@pytest.mark.parametrize("field", ["delegate.when_said", "live.delegate_when_said"])
def test_words_that_hand_a_task_over_are_more_than_signs(tmp_path: Path, field: str) -> None:
    table, _, name = field.rpartition(".")
    told = refused_file(tmp_path / "c.toml", f'[{table}]\n{name} = ["one moment", "?!?"]\n')
    assert field in told and told.endswith(r"expected a list of texts matching \w")
