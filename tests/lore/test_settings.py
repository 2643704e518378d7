"""Settings: where they come from, what is allowed, and that no secret is ever shown."""

from __future__ import annotations

import dataclasses
import re
import sys
import traceback
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.core.errors import SettingError
from lore.settings import ATTRIBUTES, NAMES, Secret, Settings, config_file, parse_duration_ms, read_settings

SECRET = "glpat-s3cr3t"
EXAMPLE = Path(__file__).parents[2] / ".env.example"


def home(tmp_path: Path, **environ: str) -> dict[str, str]:
    return {"HOME": str(tmp_path), **environ}


def write_config(tmp_path: Path, text: str, *, mode: int = 0o600) -> Path:
    path = tmp_path / ".config" / "lore" / "env"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_with_nothing_set_every_setting_has_its_default(tmp_path: Path) -> None:
    settings = read_settings(home(tmp_path))

    assert settings.gitlab_url == "https://gitlab.com"
    assert settings.sqlite_path == tmp_path / ".local/share/lore/lore.db"
    assert settings.is_embedded
    assert settings.gitlab_token is None
    assert set(settings.sources.values()) == {"default"}
    assert not settings.warnings


def test_the_order_is_option_environment_file_default(tmp_path: Path) -> None:
    path = write_config(tmp_path, "LORE_PROJECT=file/p\nLORE_GITLAB_TIMEOUT=5\nLORE_GITLAB_CONCURRENCY=3\n")
    environ = home(tmp_path, LORE_PROJECT="environment/p", LORE_GITLAB_TIMEOUT="7")

    settings = read_settings(environ, options={"LORE_PROJECT": "option/p"})

    assert (settings.project, settings.sources["project"]) == ("option/p", "option")
    assert (settings.gitlab_timeout_s, settings.sources["gitlab_timeout_s"]) == (7.0, "environment")
    assert (settings.gitlab_concurrency, settings.sources["gitlab_concurrency"]) == (3, str(path))
    assert (settings.log_level, settings.sources["log_level"]) == ("info", "default")


def test_an_empty_value_counts_as_not_set(tmp_path: Path) -> None:
    write_config(tmp_path, "LORE_PROJECT=file/p\n")

    settings = read_settings(home(tmp_path, LORE_PROJECT="", LORE_GITLAB_URL=" "), options={"LORE_PROJECT": None})

    assert settings.project == "file/p"
    assert settings.gitlab_url == "https://gitlab.com"


@pytest.mark.invariant("I13")
def test_no_file_of_the_current_folder_is_ever_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloned = tmp_path / "cloned"
    cloned.mkdir()
    for name in (".env", "env", ".lore", "lore.env"):
        (cloned / name).write_text("LORE_GITLAB_URL=https://evil.example\n")
    (cloned / ".config" / "lore").mkdir(parents=True)
    (cloned / ".config" / "lore" / "env").write_text("LORE_GITLAB_URL=https://evil.example\n")
    monkeypatch.chdir(cloned)

    settings = read_settings(home(tmp_path, XDG_CONFIG_HOME=".config"))

    assert settings.gitlab_url == "https://gitlab.com"


def test_the_xdg_folders_say_where_file_and_database_are(tmp_path: Path) -> None:
    environ = home(tmp_path, XDG_CONFIG_HOME=str(tmp_path / "c"), XDG_DATA_HOME=str(tmp_path / "d e"))

    assert config_file(environ) == tmp_path / "c" / "lore" / "env"
    assert read_settings(environ).sqlite_path == tmp_path / "d e" / "lore" / "lore.db"


def test_the_file_takes_comments_quotes_and_export(tmp_path: Path) -> None:
    write_config(
        tmp_path,
        "# all of it\n\nexport LORE_PROJECT='group/my # project'  # said\nLORE_LOG_LEVEL = DEBUG # loud\n"
        'LORE_CA_FILE=""\r\nOTHER=1\n',
    )

    settings = read_settings(home(tmp_path))

    assert settings.project == "group/my # project"
    assert settings.log_level == "debug"
    assert settings.ca_file is None


@pytest.mark.parametrize("line", [f"{SECRET}", f"LORE_GITLAB_TOKEN='{SECRET}", f"1A={SECRET}"])
def test_a_line_that_cannot_be_read_is_named_by_its_number_and_not_shown(tmp_path: Path, line: str) -> None:
    write_config(tmp_path, f"# first\n{line}\n")

    with pytest.raises(SettingError, match="line 2") as caught:
        read_settings(home(tmp_path))

    assert caught.value.code == "BAD_SETTING"
    assert SECRET not in caught.value.message


def test_a_file_that_is_not_text_is_a_wrong_setting(tmp_path: Path) -> None:
    write_config(tmp_path, "").write_bytes(b"\xff\xfe")

    with pytest.raises(SettingError, match="UTF-8"):
        read_settings(home(tmp_path))


def test_a_settings_file_that_cannot_be_read_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / ".config" / "lore" / "env").mkdir(parents=True)

    with pytest.raises(SettingError, match="cannot be read"):
        read_settings(home(tmp_path))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LORE_GITLAB_URL", "gitlab.com", "an http"),
        ("LORE_GITLAB_URL", "https://gitlab.com/api/v4", "without /api/v4"),
        ("LORE_EMBEDDINGS_URL", "127.0.0.1:11434", "an http"),
        ("LORE_EMBEDDINGS_URL", "http://host/v1?key=1", "an http"),
        ("LORE_EMBEDDINGS_MODEL", "two words", "one word"),
        ("LORE_EMBEDDINGS_TIMEOUT", "soon", "30s"),
        ("LORE_DATABASE_URL", "mysql://host/db", "sqlite:///"),
        ("LORE_DATABASE_URL", "postgresql://host", "database's name"),
        ("LORE_DATABASE_URL", "postgresql://host:port/db", "postgresql://user@host"),
        ("LORE_DATABASE_URL", "sqlite://lore.db", "sqlite:///"),
        ("LORE_DATABASE_URL", "sqlite:lore.db", "sqlite:///"),
        ("LORE_DATABASE_URL", "sqlite:///:memory:", "forgotten"),
        ("LORE_REDIS_URL", "localhost:6379", "redis://"),
        ("LORE_REDIS_URL", "redis://", "redis://"),
        ("LORE_EMBEDDINGS", "bert", "wordllama, ollama, openai, off"),
        ("LORE_CA_FILE", "/nowhere/ca.pem", "PEM"),
        ("LORE_GITLAB_CONCURRENCY", "0", "from 1 to 64"),
        ("LORE_GITLAB_CONCURRENCY", "65", "from 1 to 64"),
        ("LORE_GITLAB_CONCURRENCY", "many", "from 1 to 64"),
        ("LORE_GITLAB_TIMEOUT", "0", "a time above 0"),
        ("LORE_GITLAB_TIMEOUT", "-1", "a time above 0"),
        ("LORE_GITLAB_TIMEOUT", "inf", "a time above 0"),
        ("LORE_GITLAB_MAX_BODY_MB", "1.5", "a whole number"),
        ("LORE_LOG_FORMAT", "xml", "auto, console, json"),
        ("LORE_LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("LORE_RUN_DEADLINE", "15 minutes", "15m"),
        ("LORE_QUEUE_DEADLINE", "1w", "24h"),
        ("LORE_LEDGER_KEEP", "99999d", "3650d"),
        ("LORE_LOCK_LEASE", "x", "30s"),
        ("LORE_CLAIM_LEASE", "", "30s"),
        ("LORE_ROBOT", "maybe", "1 or 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(tmp_path: Path, name: str, value: str, allowed: str) -> None:
    if not value:
        assert read_settings(home(tmp_path, **{name: value})).claim_lease_ms == 60_000
        return

    with pytest.raises(SettingError) as caught:
        read_settings(home(tmp_path, **{name: value}))

    assert caught.value.code == "BAD_SETTING"
    assert name in caught.value.message
    assert "environment" in caught.value.message
    assert allowed in caught.value.message


@pytest.mark.invariant("I13")
@pytest.mark.parametrize("name", ["LORE_REDIS_URL", "LORE_DATABASE_URL", "LORE_GITLAB_URL", "LORE_EMBEDDINGS_URL"])
@pytest.mark.parametrize(
    "value",
    [f"redis://:{SECRET}@host:port", f"mysql://u:{SECRET}@h/d", f"postgresql://u:/{SECRET}@h/d", SECRET + "://"],
)
def test_a_wrong_url_is_refused_without_its_password(tmp_path: Path, name: str, value: str) -> None:
    said = ""

    try:
        said = repr(read_settings(home(tmp_path, **{name: value})))
    except SettingError as error:
        said = "".join(traceback.format_exception(error))

    assert SECRET not in said


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [("900", 900_000), ("15m", 900_000), ("24h", 86_400_000), ("90d", 7_776_000_000), ("500ms", 500), ("0.5", 500)],
)
def test_a_time_is_seconds_or_has_its_unit(text: str, duration_ms: int) -> None:
    assert parse_duration_ms(text) == duration_ms


@given(st.text(alphabet="0123456789.smhd-+e ", max_size=12))
def test_any_text_is_a_time_above_zero_or_a_value_error(text: str) -> None:
    try:
        duration_ms = parse_duration_ms(text)
    except ValueError:
        return
    assert duration_ms >= 1


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:////srv/lore.db", "/srv/lore.db"),
        ("sqlite:///srv/a%20b.db", "/srv/a b.db"),
        ("/srv/100% lore?.db", "/srv/100% lore?.db"),
        ("~/lore.db", "{home}/lore.db"),
        ("lore.db", "{here}/lore.db"),
    ],
)
def test_a_sqlite_database_is_named_by_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, path: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    settings = read_settings(home(tmp_path, LORE_DATABASE_URL=text))

    assert str(settings.sqlite_path) == path.format(home=tmp_path, here=here)


def test_a_postgresql_database_has_no_sqlite_path(tmp_path: Path) -> None:
    settings = read_settings(home(tmp_path, LORE_DATABASE_URL="postgres://lore@host/db"))

    assert settings.database_url == "postgresql://lore@host/db"
    assert settings.sqlite_path is None


def test_redis_can_be_switched_off_against_the_file(tmp_path: Path) -> None:
    write_config(tmp_path, "LORE_REDIS_URL=redis://localhost\n")

    assert read_settings(home(tmp_path)).redis_url == "redis://localhost"
    assert read_settings(home(tmp_path, LORE_REDIS_URL="off")).is_embedded


def test_the_token_of_the_environment_goes_before_its_file_and_both_before_the_fallback(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("from-token-file\n")
    write_config(tmp_path, "LORE_GITLAB_TOKEN=from-config\n")
    of_environ = {"LORE_GITLAB_TOKEN": "from-environment", "LORE_GITLAB_TOKEN_FILE": str(token_file)}

    def token(**environ: str) -> str:
        return read_settings(home(tmp_path, GITLAB_TOKEN="fallback", **environ)).require_token().reveal()

    assert token(**of_environ) == "from-environment"
    assert token(LORE_GITLAB_TOKEN_FILE=str(token_file)) == "from-token-file"
    assert token() == "from-config"
    write_config(tmp_path, "")
    assert token() == "fallback"


def test_where_the_token_came_from_is_known(tmp_path: Path) -> None:
    settings = read_settings(home(tmp_path, GITLAB_TOKEN=SECRET))

    assert settings.sources["gitlab_token"] == "environment, GITLAB_TOKEN"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_token_in_a_settings_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_config(tmp_path, f"LORE_GITLAB_TOKEN={SECRET}\n", mode=mode)

    settings = read_settings(home(tmp_path))

    assert settings.gitlab_token is None
    with pytest.raises(SettingError) as caught:
        settings.require_token()
    assert caught.value.code == "TOKEN_FILE"
    assert caught.value.actions[0] == f"chmod 600 {path}"
    assert SECRET not in caught.value.message


def test_the_embedder_s_token_in_a_settings_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path, f"LORE_EMBEDDINGS_TOKEN={SECRET}\n", mode=0o644)

    with pytest.raises(SettingError) as caught:
        read_settings(home(tmp_path))

    assert caught.value.code == "TOKEN_FILE"
    assert caught.value.actions[0] == f"chmod 600 {path}"
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("url", ["http://127.0.0.1:11434/", "https://host/api", "https://HOST/v1", "http://[::1]:8080"])
def test_an_embedder_s_address_is_kept_in_its_one_spelling(tmp_path: Path, url: str) -> None:
    settings = read_settings(home(tmp_path, LORE_EMBEDDINGS_URL=url))

    assert settings.embeddings_url == url.rstrip("/").lower()


def test_the_embedder_is_wordllama_where_it_is_installed_and_none_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_it = read_settings(home(tmp_path))
    monkeypatch.setitem(sys.modules, "wordllama", None)

    without_it = read_settings(home(tmp_path))

    assert (with_it.embeddings, without_it.embeddings) == ("wordllama", "off")
    assert read_settings(home(tmp_path, LORE_EMBEDDINGS="wordllama")).embeddings == "wordllama"


def test_settings_without_a_token_may_be_read_by_others(tmp_path: Path) -> None:
    write_config(tmp_path, "LORE_PROJECT=g/p\n", mode=0o644)

    settings = read_settings(home(tmp_path, LORE_GITLAB_TOKEN=SECRET))

    assert settings.project == "g/p"
    assert settings.require_token().reveal() == SECRET


def test_a_password_in_an_open_settings_file_is_a_warning(tmp_path: Path) -> None:
    write_config(tmp_path, f"LORE_REDIS_URL=redis://:{SECRET}@host\n", mode=0o644)

    ((code, message),) = read_settings(home(tmp_path)).warnings

    assert code == "OPEN_SETTINGS_FILE"
    assert SECRET not in message


@pytest.mark.parametrize("content", [None, b"", b" \n", b"two words\n", b"\xff\xfe", b"x" * 20_000])
def test_a_token_file_must_hold_one_token(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)

    settings = read_settings(home(tmp_path, LORE_GITLAB_TOKEN_FILE=str(path), GITLAB_TOKEN="never-instead"))

    with pytest.raises(SettingError) as caught:
        settings.require_token()
    assert caught.value.code == "TOKEN_FILE"
    assert str(path) in caught.value.message


def test_a_token_that_is_no_single_word_is_refused_and_not_shown(tmp_path: Path) -> None:
    settings = read_settings(home(tmp_path, LORE_GITLAB_TOKEN=f"{SECRET}\r\nX-Evil: 1"))

    with pytest.raises(SettingError) as caught:
        settings.require_token()
    assert caught.value.code == "BAD_SETTING"
    assert SECRET not in caught.value.message


def test_a_first_call_with_nothing_set_prints_the_lines_to_write(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        read_settings(home(tmp_path)).require_token()

    assert caught.value.code == "NO_TOKEN"
    assert str(tmp_path / ".config/lore/env") in caught.value.message
    assert "\n  LORE_GITLAB_URL=https://gitlab.com\n  LORE_GITLAB_TOKEN=" in caught.value.message


def test_a_url_that_is_set_is_not_asked_for_again(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        read_settings(home(tmp_path, LORE_GITLAB_URL="https://gitlab.example.com")).require_token()

    assert "LORE_GITLAB_URL" not in caught.value.message
    assert "https://gitlab.example.com/-/user_settings/personal_access_tokens" in caught.value.message


def test_a_misspelt_name_is_warned_of_with_the_nearest_one(tmp_path: Path) -> None:
    write_config(tmp_path, "LORE_PROJCT=g/p\n")

    warnings = read_settings(home(tmp_path, LORE_GITLAB_TOKNE=SECRET, LORE_TYPO="1")).warnings

    assert [code for code, _ in warnings] == ["UNKNOWN_SETTING"] * 3
    text = "\n".join(message for _, message in warnings)
    assert "did you mean LORE_GITLAB_TOKEN?" in text
    assert "did you mean LORE_PROJECT?" in text
    assert "'LORE_TYPO' (environment) is no setting of lore\n" in text
    assert SECRET not in text


@pytest.mark.invariant("I13")
def test_no_secret_is_in_what_settings_show_of_themselves(tmp_path: Path) -> None:
    settings = read_settings(
        home(
            tmp_path,
            LORE_GITLAB_TOKEN=SECRET,
            LORE_DATABASE_URL="postgresql://u:p%40ss-database@host/db",
            LORE_REDIS_URL="redis://:pass-redis@host",
            LORE_EMBEDDINGS_TOKEN="sk-embedder",
            HTTPS_PROXY="http://me:pass-proxy@proxy:3128",
            http_proxy="you:pass-plain@proxy:3128",
        )
    )

    shown = f"{settings!r} {settings} {settings.gitlab_token} {settings.gitlab_token!r}"

    for secret in (SECRET, "sk-embedder", "p%40ss-database", "p@ss-database", "pass-redis", "pass-proxy", "pass-plain"):
        assert secret in settings.secrets
        assert secret not in shown


def test_a_secret_is_equal_to_itself_only() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_the_example_lists_every_setting_with_its_default() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")

    listed = dict(re.findall(r"^#(LORE_[A-Z_]+)=(.*)$", text, re.MULTILINE))
    kept = {field.name for field in dataclasses.fields(Settings)} - {"sources", "warnings", "secrets", "token_problem"}

    assert tuple(listed) == NAMES
    assert set(ATTRIBUTES.values()) == kept


def test_the_defaults_of_the_example_are_the_defaults(tmp_path: Path) -> None:
    listed = dict(re.findall(r"^#(LORE_[A-Z_]+)=(.+)$", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE))

    written = read_settings(home(tmp_path, **listed))
    default = read_settings(home(tmp_path))

    for name in listed:
        assert getattr(written, ATTRIBUTES[name]) == getattr(default, ATTRIBUTES[name]), name


def test_every_setting_of_the_example_has_a_meaning() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()

    for before, line in pairwise(lines):
        if line.startswith("#LORE_"):
            assert before.startswith("# "), line


@pytest.mark.parametrize("userinfo", ["u:pa%ss", "u:hid den", "u:se@cret"])
def test_a_database_password_that_is_not_encoded_is_refused_without_being_shown(userinfo: str) -> None:
    with pytest.raises(SettingError) as caught:
        read_settings({"LORE_DATABASE_URL": f"postgresql://{userinfo}@127.0.0.1/db"})

    assert caught.value.code == "BAD_SETTING"
    assert all(part not in caught.value.message for part in ("pa%ss", "hid den", "se@cret", "cret@"))
