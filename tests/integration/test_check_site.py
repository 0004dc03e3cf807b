"""The check of a built site notices what is wrong with it."""

import check_site
import pytest

PAGE = """<html><body><h1 id="title">Title</h1><a href="other/#there">other</a>
<a href="https://elsewhere.example/">elsewhere</a><a href="#title">up</a>
<img src="picture.svg"><link rel="stylesheet" href="style.css"></body></html>"""
OTHER = '<html><body><h2 id="there">There</h2><a href="..">back</a></body></html>'


@pytest.fixture
def site(tmp_path):
    (tmp_path / "picture.svg").write_text("<svg/>")  # outside, where a server has nothing
    site = tmp_path / "site"
    (site / "other").mkdir(parents=True)
    (site / "index.html").write_text(PAGE)
    (site / "other" / "index.html").write_text(OTHER)
    (site / "picture.svg").write_text("<svg/>")
    (site / "style.css").write_text("p { background: url(picture.svg) }")
    return site


def test_a_site_without_a_fault_passes(site, capsys):
    assert check_site.main([str(site)]) == 0
    assert "every link" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("index.html", "other/#there", "another/"),
        ("index.html", "#there", "#nowhere"),
        ("index.html", "#title", "#untitled"),
        ("index.html", "picture.svg", "painting.svg"),
        ("index.html", "picture.svg", "../picture.svg"),
        ("index.html", "picture.svg", "https://elsewhere.example/picture.svg"),
        ("index.html", "style.css", "//elsewhere.example/style.css"),
        ("style.css", "url(picture.svg)", "url(https://elsewhere.example/font.woff2)"),
    ],
)
def test_a_dead_link_or_a_file_from_elsewhere_is_a_fault(site, name, old, new):
    file = site / name
    file.write_text(file.read_text().replace(old, new))
    assert len(list(check_site.faults(site))) == 1
    assert check_site.main([str(site)]) == 1


def test_a_folder_that_is_no_site_is_a_fault(tmp_path):
    assert check_site.main([str(tmp_path)]) == 1
