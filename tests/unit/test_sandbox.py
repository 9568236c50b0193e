"""The sandbox's faults: senseless ones are refused."""

import pytest

from cli.sandbox import Faults


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"speed": 1}, "speed"),
        ({"fail": 2}, "fail"),
        ({"hang": -0.1}, "hang"),
        ({"fail": "x"}, "fail"),
        ({"slow": True}, "slow"),
        ({"fail_status": 1000}, "fail_status"),
    ],
)
def test_senseless_faults_are_named(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Faults().changed(fields)


def test_faults_change_one_by_one() -> None:
    assert Faults(fail=0.1).changed({"hang": 0.5}) == Faults(fail=0.1, hang=0.5)
