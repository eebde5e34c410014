import json

import pytest

from fastregion.models.mini import MiniConfig


def test_round_trip_through_json() -> None:
    config = MiniConfig(replay_size=4, detail_margin=1.5)
    again = MiniConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config


def test_unknown_keys_and_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown key 'hidden'"):
        MiniConfig.from_dict({"hidden": 3})
    with pytest.raises(ValueError, match="thumbnail_size must be one of vision"):
        MiniConfig(thumbnail_size=112)
    with pytest.raises(ValueError, match=r"replay_margin must be in \[1, detail_margin = 1.3\]"):
        MiniConfig(replay_margin=2.0)
