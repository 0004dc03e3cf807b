"""The page: complete in itself, escaped, and right where something is missing."""

import base64
import re
from html.parser import HTMLParser

import pytest

from mtrl_fairgrad.analysis.report import html
from mtrl_fairgrad.analysis.report.formats import as_latex, as_markdown, as_text
from mtrl_fairgrad.analysis.report.html import as_html
from mtrl_fairgrad.runs.fault_log import Fault, encode_faults
from mtrl_fairgrad.runs.metric_entries import SPEED
from mtrl_fairgrad.runs.run_dir import RunFolderError
from tests.support.fabricated_runs import (
    COURSE,
    FAIRGRAD,
    METHOD,
    PROTOCOL,
    TASKS,
    blocks_of_runs,
    log,
)

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> $a$ & {{ 7*7 }}"
VOID = {"meta", "source", "br", "img", "path", "use", "image", "rect", "line"}


class Page(HTMLParser):
    """Reads a page and complains of tags that do not match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, text):
        self.text.append(text)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())

    def values(self, *names):
        return [value for _, name, value in self.attributes if name in names]


@pytest.fixture
def conflicted(make):
    """A run that logged what methods log."""

    def make_conflicted(name, even=False, **options):
        path = make(name, **options)
        entries = {SPEED: {step: 20.0 for step in range(0, 1000, 100)}}
        for network in ("critic", "actor"):
            for tag, start in (
                ("cosine/mean", 0.1),
                ("cosine/share_negative", 0.2),
                ("min_progress", -0.1),
            ):
                entries[f"{network}/{tag}"] = {
                    step: start + step / 5000 for step in range(0, 1000, 100)
                }
            entries[f"{network}/residual"] = {
                step: 0.0 if step < 300 else 1e-6 for step in range(0, 1000, 100)
            }
            for k, task in enumerate(options.get("tasks", TASKS)):
                entries[f"{network}/weights/{task}"] = {
                    step: 1.0 if even else 1.0 + k for step in range(0, 1000, 100)
                }
        log(path, entries)
        return path

    return make_conflicted


def test_the_page_has_everything_and_needs_nothing(make, conflicted):
    text = as_html(blocks_of_runs(conflicted("a"), make("b", method={"name": "ls"})))
    found = Page(text)
    for words in (
        *("Success rate, mean over tasks", "Learning curves", "Confidence intervals and cost"),
        *(
            "Final success rate by task",
            "Probability of improvement",
            "Conflict between tasks",
            "Runs",
        ),
        *("Rank test of seeds at the end", "Rank test of seeds over training"),
        *(
            "critic: mean cosine between task gradients",
            "actor: share of updates that made some task worse",
        ),
        *(
            "actor: relative residual of the method's equation",
            "Weights of the tasks, relative to their mean",
        ),
        *(METHOD, "0.600 ± 0.100", "0.700 ± 0.100 at 500", "0.600 [0.500, 0.700]", "± 0.20"),
    ):
        assert words in found.words, words
    assert found.tags.count("img") > 10 and found.tags.count("svg") > 5
    assert "script" not in found.tags and "link" not in found.tags
    outside = [
        value
        for value in found.values("src", "href", "xlink:href")
        if not value.startswith(("#", "data:"))
    ]
    assert (
        outside == [] and "@import" not in text and "url(" not in re.sub(r"url\(#\w+\)", "", text)
    )
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    targets = [value[1:] for value in found.values("href", "xlink:href") if value.startswith("#")]
    assert set(targets) | set(re.findall(r"url\(#(\w+)\)", text)) <= set(ids)


def test_wide_figures_have_another_drawing_for_phones(make):
    found = Page(as_html(blocks_of_runs(make("a"))))
    wide = [value for tag, name, value in found.attributes if (tag, name) == ("img", "src")]
    narrow = [value for _, name, value in found.attributes if name == "srcset"]
    widths = [
        [float(re.search(r'width="([\d.]+)pt"', svg)[1]) for svg in map(decoded, images)]
        for images in (wide[:1], narrow[:1])
    ]
    assert widths == [[pytest.approx(72 * html.PAGE_WIDTH)], [72 * 4.6]]
    assert len(narrow) == 2, "the curve and the intervals; those of tasks are small anyway"


def decoded(uri):
    return base64.b64decode(uri.partition(",")[2]).decode()


def test_each_protocol_is_a_chapter_with_a_title_of_its_own(make):
    text = as_html(blocks_of_runs(make("a"), make("b", env={"horizon": 150})))
    chapters = re.findall("<h2>(.*?)</h2>", text)
    assert sorted(chapters) == ["mt10: horizon 150", "mt10: horizon 500"]
    assert [f">{title}</a>" in text for title in chapters] == [True, True]


def test_the_protocol_stands_on_every_figure(make, conflicted):
    blocks = blocks_of_runs(conflicted("a"), make("b", env={"horizon": 150}))
    text = as_html(blocks)
    sections = text.split("<section")[1:]
    assert len(sections) == 2 and "2 protocols." in text
    for section, block in zip(sections, blocks, strict=True):
        figures = section.count("<figure>")
        assert figures >= 3
        assert section.count(f'<span class="protocol">{block.protocol}</span>') == figures
        described = re.findall(r'<img src="[^"]*" alt="([^"]*)"', section)
        assert described and all(
            words.endswith(f"Protocol: {block.protocol}.") for words in described
        )


def test_names_are_text_whatever_they_say(make, conflicted):
    method = {**FAIRGRAD, "name": EVIL, "solver": EVIL, EVIL: EVIL}
    env = {"name": EVIL, "reward_version": EVIL}
    manifest = {
        "device": EVIL,
        "started": EVIL,
        "git": {"commit": EVIL, "dirty": True},
        "versions": {EVIL: EVIL},
    }
    manifest["protocol"] = {"goals": EVIL, EVIL: EVIL}
    others = {"agent": {"name": EVIL, EVIL: EVIL}, "convention": {"name": EVIL}}
    paths = [
        conflicted(
            "<img src=x onerror=alert(3)>",
            tasks=[EVIL, "push-v3"],
            method=method,
            env=env,
            manifest=manifest,
        ),
        make("b", tasks=[EVIL, "push-v3"], env=env, manifest=manifest, **others),
    ]
    (paths[0] / "<img onerror=alert(2)>.mp4").write_bytes(b"film")
    found = Page(as_html(blocks_of_runs(*paths)))
    assert "script" not in found.tags
    images = [value for tag, name, value in found.attributes if (tag, name) == ("img", "src")]
    assert images and all(image.startswith("data:image/svg+xml;base64,") for image in images)
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert found.words.count(EVIL) > 10 and "<img onerror=alert(2)>" in found.words
    assert "<img src=x onerror=alert(3)>" in found.words
    assert "49" not in re.findall(r"&\s(\d+)\s", found.words)


def test_one_seed_one_task_and_nothing_logged(make):
    path = make("a", {0: [[0.0]], 1000: [[0.5]]}, seeds=[0], tasks=["reach-v3"])
    text = as_html(blocks_of_runs(path))
    found = Page(text)
    assert (
        "Conflict between tasks" not in found.words
        and "Probability of improvement" not in found.words
    )
    assert "Episodes" not in found.words and "Table 4" not in found.words
    assert "nan" not in found.words.lower() and "[" not in re.sub(r"\{.*?\}", "", found.words)
    assert found.tags.count("img") == 1, "the curve"
    assert found.tags.count("svg") == 4, "the keys of legend, two tables and heat map"


def test_evaluations_that_not_all_seeds_have_are_mentioned(make):
    short = {env_steps: [success[1]] for env_steps, success in COURSE.items() if env_steps < 1000}
    whole = {env_steps: [success[0]] for env_steps, success in COURSE.items()}
    blocks = blocks_of_runs(
        make("a", whole, seeds=[0]), make("b", short, seeds=[1]), make("c", method={"name": "ls"})
    )
    words = Page(as_html(blocks)).words
    assert f"{METHOD}: 1 evaluations that not all its seeds have are left out." in words
    assert "Compared at the last evaluation that both have, env_steps 500." in words


def test_even_weights_are_named_and_not_drawn(conflicted):
    words = Page(as_html(blocks_of_runs(conflicted("a", even=True)))).words
    assert f"within 5% of their mean throughout: critic: {METHOD}; actor: {METHOD}." in words
    assert "relative to their mean" not in words


def videos(page):
    return [value for value in page.values("src") if value.startswith("data:video")]


def test_films_are_embedded_in_the_order_of_tasks_while_there_is_room(make, monkeypatch):
    path = make("a")
    (path / "films").mkdir()
    for name, size in (("other", 30), ("push-v3", 40), ("reach-v3", 50)):
        (path / "films" / f"{name}-seed0-goal3.mp4").write_bytes(bytes([size] * size))
    found = Page(as_html(blocks_of_runs(path)))
    assert videos(found) == [
        "data:video/mp4;base64," + base64.b64encode(bytes([size] * size)).decode()
        for size in (50, 40, 30)
    ]
    monkeypatch.setattr(html, "VIDEO_BYTES", 85)
    found = Page(as_html(blocks_of_runs(path)))
    assert len(videos(found)) == 2
    assert f"Left out to limit the page's size: push-v3-seed0-goal3 · {METHOD}." in found.words


@pytest.mark.parametrize("linked", ["films", "films/reach-v3-seed0-goal3.mp4"])
def test_a_film_that_is_a_link_is_not_embedded(make, tmp_path, linked):
    path, outside = make("a"), tmp_path / "outside"
    (outside / "films").mkdir(parents=True)
    (outside / "films" / "reach-v3-seed0-goal3.mp4").write_bytes(b"the key of a user")
    (path / linked).parent.mkdir(exist_ok=True)
    (path / linked).symlink_to(outside / linked)
    if linked == "films":
        assert not videos(Page(as_html(blocks_of_runs(path))))
    else:
        with pytest.raises(RunFolderError, match=r"reach-v3-seed0-goal3\.mp4 is a symbolic link"):
            as_html(blocks_of_runs(path))


def test_the_page_says_where_its_runs_come_from_without_naming_other_folders(make, tmp_path):
    manifest = {
        "started": "2026-11-20T10:00:00+00:00",
        "device": "cuda",
        "git": {"commit": "f" * 40, "dirty": True},
    }
    text = as_html(blocks_of_runs(make("my-run", manifest=manifest)))
    words = Page(text).words
    assert "my-run" in words and str(tmp_path) not in text
    assert f"{METHOD} 0, 1 2026-11-20 10:00 – cuda ffffffffff with changes" in words
    assert PROTOCOL in words


# ---- numerical faults ----


def test_faults_stand_in_every_format_escaped_and_a_stopped_seed_is_noted(make):
    path = make("a", tasks=[EVIL, "push-v3"])
    block = blocks_of_runs(path)
    assert "Numerical faults" not in as_html(block)
    found = [
        Fault("critic", "non_finite", 1, EVIL, 1, 400, 200, "stop"),
        Fault("actor", "unsolved", 0, "", 300, 400, 0, "count"),
        Fault("actor", EVIL, 0, EVIL, 2, 400, 10, EVIL),
    ]
    (path / "incidents.csv").write_bytes(encode_faults(found))
    block = blocks_of_runs(path)
    text = as_html(block)
    words = Page(text).words
    assert "Numerical faults in updates" in words and "<script" not in text
    assert "the method's equation was not solved all 75.00% 0 counted" in words
    stopped = (
        f"{METHOD}: training of seed 1 stopped at update 200; its numbers are those of the policy "
        "at that point."
    )
    terminal = " ".join(as_text(block).split())
    assert stopped in words and stopped in terminal
    assert f"{METHOD}: 300 of 400 updates (actor) left the equation unsolved:" in terminal
    assert "Numerical faults" in as_markdown(block) and "Numerical faults" in as_latex(block)
    assert max(map(len, as_text(blocks_of_runs(path)).splitlines())) <= 120
