"""Groups side by side: what they share, what is compared, and what is refused."""

import numpy as np
import pytest

from mtrl_fairgrad.analysis.report.protocol_blocks import (
    cost,
    logged,
    negative_progress,
    update_share,
    weight_shares,
)
from mtrl_fairgrad.analysis.report.tables import gradients, update_shares
from mtrl_fairgrad.runs.metric_entries import SPEED
from tests.support.fabricated_runs import COURSE, METHOD, TASKS, blocks_of_runs, log

LS = {"name": "ls"}


def test_a_method_looks_the_same_in_every_block(make):
    first, second = blocks_of_runs(
        make("a", method=LS),
        make("b"),
        make("c", env={"horizon": 150}),
        make("d", method=LS, env={"horizon": 150}),
    )
    assert [group.label for group in first.groups] == ["ls", METHOD]
    assert [group.label for group in second.groups] == [METHOD, "ls"]
    looks = [
        {group.label: block.styles[group.label] for group in block.groups}
        for block in (first, second)
    ]
    assert looks[0] == looks[1] and len(set(looks[0].values())) == 2
    assert (first.title, first.tasks) == ("mt10: horizon 500", TASKS)


def test_every_block_has_a_title_of_its_own(make):
    blocks = blocks_of_runs(
        make("a"),
        make("b", env={"horizon": 150}),
        make("c", tasks=[TASKS[0], "window-open-v3"]),
        make("d", env={"name": "mt50"}),
    )
    assert sorted(block.title for block in blocks) == [
        *("mt10: horizon 150", "mt10: horizon 500 (1)", "mt10: horizon 500 (2)", "mt50"),
    ]
    [alone] = blocks_of_runs(make("e"))
    assert alone.title == "mt10"


def test_improvement_is_compared_at_the_last_common_evaluation(make):
    worse = {0: COURSE[0], 500: [[0.0, 0.0], [0.0, 0.0]]}
    [block] = blocks_of_runs(make("a"), make("b", worse, method=LS))
    (nothing, better), (turned, _) = block.improvements
    assert nothing is None and better.env_steps == turned.env_steps == 500
    assert better.probability == (1, 1, 1) and turned.probability == (0, 0, 0)


def test_without_a_common_evaluation_nothing_is_compared(make):
    [block] = blocks_of_runs(
        make("a", {1000: COURSE[1000]}), make("b", {500: COURSE[500]}, method=LS)
    )
    assert block.improvements == [[None, None], [None, None]]


def test_the_other_way_round_is_the_mirror_image(make):
    other = {1000: [[0.3, 0.7], [0.7, 0.9]]}
    [block] = blocks_of_runs(make("a", {1000: COURSE[1000]}), make("b", other, method=LS))
    one, turned = block.improvements[0][1].probability, block.improvements[1][0].probability
    assert one.value == pytest.approx(
        0.375
    )  # .2 and .6 beat .3 and .7 once in four, .8 and .8 beat .7 and .9 twice
    assert turned == pytest.approx((1 - one.value, 1 - one.high, 1 - one.low))


def test_seeds_are_ranked_by_their_own_numbers_at_the_end_and_over_the_course(make):
    # Three seeds each; at the end one of the other's beats all, over the course they are behind.
    early = {0: [[0.0]] * 3, 500: [[0.9], [0.8], [0.7]], 1000: [[0.6], [0.5], [0.4]]}
    late = {0: [[0.0]] * 3, 1000: [[0.7], [0.3], [0.2]], 1500: [[1.0]] * 3}
    three = {"seeds": [0, 1, 2], "tasks": ["reach-v3"]}
    [block] = blocks_of_runs(make("a", early, **three), make("b", late, method=LS, **three))
    (nothing, found), (turned, _) = block.seed_ranks
    assert nothing is None
    # Evaluations 0 and 1,000 are what both have: there 6 of 9 pairs are won, at the end and so over
    # the course, too.
    assert found.final == found.course == (pytest.approx(6 / 9), pytest.approx(14 / 20))
    assert turned.final == (pytest.approx(3 / 9), found.final.p)
    both = {**late, 500: [[0.0], [0.1], [0.2]]}
    [block] = blocks_of_runs(make("c", early, **three), make("d", both, method=LS, **three))
    assert block.seed_ranks[0][1].course == (1, pytest.approx(0.1))  # 0.9 and so on now count
    assert block.seed_ranks[0][1].final == found.final


def test_cost_adds_up_all_runs_and_takes_the_median_speed(make):
    one, two = make("a", {0: [[0.1, 0.1]]}, seeds=[0]), make("b", {0: [[0.1, 0.1]]}, seeds=[1])
    log(one, {SPEED: {1: 10.0, 2: 20.0}}, every=30)
    [[group]] = [block.groups for block in blocks_of_runs(one, two)]
    assert np.isnan(cost(group).wall_seconds) and cost(group).updates_per_second == 15
    log(two, {SPEED: {1: 40.0, 2: 50.0, 3: 60.0}}, every=30)
    [[group]] = [block.groups for block in blocks_of_runs(one, two)]
    assert cost(group).wall_seconds == pytest.approx(90, abs=5)
    assert cost(group).updates_per_second == 40


def test_courses_of_a_group_are_means_over_its_seeds(make):
    one, two = (
        make("a", {0: [[0.1, 0.1]]}, seeds=[0]),
        make("b", {0: [[0.1, 0.1]] * 3}, seeds=[1, 2, 3]),
    )
    weights = {
        f"actor/weights/{task}": {0: value} for task, value in zip(TASKS, (1.0, 3.0), strict=True)
    }
    log(one, {"actor/residual": {0: 1.0}, "actor/min_progress": {0: -1.0}, **weights})
    log(two, {"actor/residual": {0: 5.0}, "actor/min_progress": {0: 1.0}, **weights})
    [block] = blocks_of_runs(one, two)
    [group] = block.groups
    assert block.networks == ["actor"]
    assert logged(group, "actor/residual").values.tolist() == [4.0]
    assert negative_progress(group, "actor").values.tolist() == [0.25]
    assert [share.values.tolist() for share in weight_shares(group, "actor")] == [[0.5], [1.5]]
    assert (
        weight_shares(group, "critic") is None
        and len(negative_progress(group, "critic").env_steps) == 0
    )


def test_parts_of_the_steps_are_those_of_orthogonal_gradients(make):
    def logs(weights, norms):
        found = {
            f"critic/weights/{task}": dict(enumerate(values))
            for task, values in zip(TASKS, weights, strict=True)
        }
        for task, values in zip(TASKS, norms, strict=True):
            found[f"critic/task_gradient_norm/{task}"] = dict(enumerate(values))
        return found

    one, two = (
        make("a", {0: [[0.1, 0.1]]}, seeds=[0]),
        make("b", {0: [[0.1, 0.1]] * 3}, seeds=[1, 2, 3]),
    )
    # First all of the second task's, then 9 : 16 parts; nothing and NaN say nothing.
    log(
        one,
        logs(
            [(0.0, 3.0, 0.0, 1.0), (1.0, 2.0, 0.0, 1.0)],
            [(2.0, 1.0, 1.0, float("nan")), (3.0, 2.0, 1.0, 1.0)],
        ),
    )
    log(two, logs([(1.0, 1.0), (1.0, 1.0)], [(1.0, 2.0), (0.0, 0.0)]))
    [block] = blocks_of_runs(one, two)
    assert update_share(block.groups[0], "critic") == pytest.approx(
        [(0.5 * 9 / 25 + 3) / 4, (1 - 0.5 * 9 / 25) / 4]
    )
    assert update_share(block.groups[0], "actor") is None
    [table] = update_shares(block)
    assert table.rows == [[TASKS[0], "79.5%"], [TASKS[1], "20.5%"]]


def test_a_method_that_logged_no_weights_has_no_parts(make):
    path = make("a")
    log(path, {f"critic/task_gradient_norm/{task}": {0: 1.0} for task in TASKS})
    [block] = blocks_of_runs(path)
    assert update_share(block.groups[0], "critic") is None and update_shares(block) == []


def test_a_table_tells_what_task_gradients_were_like(make):
    path, silent = make("a"), make("b", method={"name": "ls"})
    first, second = TASKS
    log(
        path,
        {
            f"critic/task_gradient_norm/{first}": {0: 2.0, 500: 9.0, 1000: 1.0},
            f"critic/task_gradient_norm/{second}": {0: 0.5, 500: 1.0, 1000: 1.0},
            f"critic/weights/{first}": {0: 1.0},
            "critic/cosine/mean": {0: -0.5, 500: 0.1},
            f"critic/signal/{first}": {0: 0.2, 500: 0.4},
            f"critic/signal/{second}": {0: 0.6, 500: 0.8},
        },
    )
    [block] = blocks_of_runs(path, silent)
    [table] = gradients(block)
    assert table.rows[0][1:] == ["4.0", "-0.20", "–", "0.50", "–"]
    assert table.rows[1][1:] == ["–"] * 5
    assert gradients(blocks_of_runs(silent)[0]) == []
