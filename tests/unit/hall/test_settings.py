"""A wrong setting stops the start and names itself."""

from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, from_environment

KUBERNETES = {
    "LOREHOUSE_PORT": "tcp://10.0.0.1:80",
    "LOREHOUSE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "LOREHOUSE_PORT_8000_TCP_PROTO": "tcp",
    "LOREHOUSE_PORT_8000_TCP_ADDR": "10.0.0.1",
    "LOREHOUSE_SERVICE_HOST": "10.0.0.1",
    "LOREHOUSE_SERVICE_PORT": "8000",
}


def test_nothing_set_gives_the_defaults() -> None:
    assert from_environment({"PATH": "/bin"}) == (Settings(), [])


def test_every_setting_is_read_from_its_name() -> None:
    given = {
        "LOREHOUSE_HOST": "0.0.0.0",
        "LOREHOUSE_PORT": "9000",
        "LOREHOUSE_DATA_DIR": "/srv/lorehouse",
        "LOREHOUSE_DATABASE_URL": "sqlite+aiosqlite:////srv/x.db",
        "LOREHOUSE_ADMIN_KEY": "k",
        "LOREHOUSE_BASE_MODEL": "org/Some-Model",
        "LOREHOUSE_BASE_NAME": "some-model",
        "LOREHOUSE_QUANTIZATION": "none",
        "LOREHOUSE_COMPUTE_DTYPE": "bfloat16",
        "LOREHOUSE_ENGINE": "resident",
        "LOREHOUSE_MAX_FILE_BYTES": "1000",
        "LOREHOUSE_SECRET": "s",
        "LOREHOUSE_METRICS_PUBLIC": "true",
    }
    settings, ignored = from_environment(given)
    assert ignored == []
    assert settings.host == "0.0.0.0"
    assert settings.port == 9000
    assert settings.data_dir == Path("/srv/lorehouse")
    assert settings.sqlalchemy_url == "sqlite+aiosqlite:////srv/x.db"
    assert settings.max_file_bytes == 1000
    assert settings.metrics_public is True
    assert settings.quantization == "none"
    assert settings.compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    "name", ["LOREHOUSE_PROT", "LOREHOUSE_", "LOREHOUSE_sqlalchemy_url", "LOREHOUSE_VERSION"]
)
def test_an_unknown_name_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown setting {name.upper()}"):
        from_environment({name: "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOREHOUSE_PORT", "http"),
        ("LOREHOUSE_PORT", "70000"),
        ("LOREHOUSE_PORT", "-1"),
        ("LOREHOUSE_PORT", ""),
        ("LOREHOUSE_DATA_DIR", ""),
        ("LOREHOUSE_BASE_MODEL", ""),
        ("LOREHOUSE_QUANTIZATION", "int8"),
        ("LOREHOUSE_COMPUTE_DTYPE", "float16"),
        ("LOREHOUSE_ENGINE", "Resident"),
        ("LOREHOUSE_MAX_FILE_BYTES", "0"),
        ("LOREHOUSE_METRICS_PUBLIC", "maybe"),
        ("LOREHOUSE_BASE_NAME", "Some/Model"),
        ("LOREHOUSE_BASE_NAME", "model\n"),
        ("LOREHOUSE_LOG_LEVEL", "loud"),
        ("LOREHOUSE_ADMIN_KEY", "with a space"),
        ("LOREHOUSE_ADMIN_KEY", "schlüssel"),
    ],
)
def test_a_bad_value_names_its_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        from_environment({name: value})


def test_the_choices_are_told() -> None:
    with pytest.raises(SettingsError, match=r"LOREHOUSE_QUANTIZATION.* nf4, none, auto"):
        from_environment({"LOREHOUSE_QUANTIZATION": "int8"})


def test_a_bad_secret_is_not_told() -> None:
    with pytest.raises(SettingsError) as fault:
        from_environment({"LOREHOUSE_ADMIN_KEY": "open sesame"})
    assert "sesame" not in str(fault.value)


def test_what_kubernetes_injects_is_ignored_and_told() -> None:
    settings, ignored = from_environment(KUBERNETES)
    assert settings == Settings()
    assert ignored == sorted(KUBERNETES)


def test_a_real_port_beside_what_kubernetes_injects_is_kept() -> None:
    settings, ignored = from_environment(KUBERNETES | {"LOREHOUSE_PORT": "9000"})
    assert settings.port == 9000
    assert "LOREHOUSE_PORT" not in ignored
