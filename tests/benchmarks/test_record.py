import json

from adn_jax.benchmarks.record import record_json
from tests.benchmarks.records import full_record


def test_a_record_is_json_without_a_copy_of_the_recipe_in_each_result():
    content = json.loads(json.dumps(record_json(full_record()), allow_nan=False))
    assert content["plan"]["recipe"]["name"] == "tiny"
    assert content["load_average"] == {"start": 0.3, "end": 2.1}
    assert content["machine"]["cores"] == 4
    assert [each["round"] for each in content["results"]] == [1, 1, 1, 2, 2, 1]
    assert content["results"][0]["figures"]["step_s"] == [0.2, 0.4]
    assert content["results"][2]["figures"] is None
    assert content["results"][2]["failure"] == "no compiler; install one."
    assert "recipe" not in content["results"][0]
