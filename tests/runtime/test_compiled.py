"""Where compiled programs are kept for the next start."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from adn_jax.runtime.platform import keep_compiled

SETTINGS = ("compilation_cache_dir", "compilation_cache_max_size")


@pytest.fixture(autouse=True)
def nothing_was_said():
    """jax keeps nothing so far, as where no variable of the environment is set."""
    before = {name: getattr(jax.config, f"jax_{name}") for name in SETTINGS}
    use({"compilation_cache_dir": None, "compilation_cache_max_size": -1})
    yield
    use(before)


def use(settings):
    for name, value in settings.items():
        jax.config.update(f"jax_{name}", value)
    compilation_cache.reset_cache()


def compile_something():
    jax.clear_caches()
    number = jnp.float32(3)
    return float(jax.jit(lambda x: x * 7 + 2)(number))


def programs(folder):
    return sorted(folder.rglob("jit__lambda*-cache"))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_they_are_kept_in_the_users_cache_and_read_again(home):
    keep_compiled()
    assert compile_something() == 23
    (kept,) = programs(home / "adn-jax" / "compiled")
    written = kept.stat().st_mtime_ns
    compilation_cache.reset_cache()
    events = []

    def listen(event, **_):
        events.append(event)

    jax.monitoring.register_event_listener(listen)
    assert compile_something() == 23
    jax.monitoring.unregister_event_listener(listen)
    assert "/jax/compilation_cache/cache_hits" in events
    assert (kept.stat().st_mtime_ns, programs(home)) == (written, [kept])


def test_processes_that_train_as_one_keep_them_beside_the_run(home, tmp_path):
    keep_compiled(tmp_path / "run")
    compile_something()
    assert len(programs(tmp_path / "run" / "compiled")) == 1
    assert not home.exists()


def test_a_place_that_jax_was_given_stays(home, tmp_path):
    use({"compilation_cache_dir": str(tmp_path / "mine")})
    keep_compiled()
    compile_something()
    assert len(programs(tmp_path / "mine")) == 1
    assert not home.exists()


def test_without_a_place_to_write_nothing_is_kept(home):
    home.write_text("a file, no folder")
    keep_compiled()
    assert compile_something() == 23
    assert jax.config.jax_compilation_cache_dir is None
