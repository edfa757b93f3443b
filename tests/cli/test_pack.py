import pytest

from adn_jax.cli.main import main
from adn_jax.data.manifest import read_manifest
from tests.training.tiny import write_heads


@pytest.fixture
def heads(tmp_path):
    return write_heads(tmp_path / "heads", train=2, validation=1).folder


def test_it_says_where_the_files_are(heads, tmp_path, capsys):
    out = tmp_path / "packed"
    main(["pack", str(heads), str(out), "--cases-per-shard", "2"])
    said = capsys.readouterr().out
    assert said.endswith(f"3 cases are in 2 files in {out}\n")
    assert len(read_manifest(out).shards) == 2


def test_it_packs_into_a_store(heads, gcs, capsys):
    main(["pack", str(heads), f"{gcs.bucket}/by-command"])
    assert "3 cases are in 1 file in gs://bucket/by-command" in capsys.readouterr().out


def test_a_mistake_is_one_sentence(heads, s3, capsys):
    with pytest.raises(SystemExit) as end:
        main(["pack", str(heads), f"{s3.bucket}/packed"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("adn: s3://bucket/packed is for packed cases, but ")
    assert said.count("\n") == 1
