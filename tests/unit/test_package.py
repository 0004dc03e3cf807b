"""The public names of the package are imported on first use."""

import subprocess
import sys

import pytest

import mtrl_fairgrad


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("make", "make_method"),
        ("names", "method_names"),
        ("options", "method_options"),
        ("register", "register_method"),
    ],
)
def test_old_names_warn_and_are_the_new_ones(old, new):
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(mtrl_fairgrad, old) is getattr(mtrl_fairgrad, new)
    assert old not in mtrl_fairgrad.__all__


def test_the_package_has_a_version():
    assert mtrl_fairgrad.__version__[0].isdigit()


def test_a_submodule_or_an_unknown_name_loads_no_torch():
    code = (
        "import sys, mtrl_fairgrad\n"
        "from mtrl_fairgrad import utils\n"
        "assert mtrl_fairgrad.__version__\n"
        "assert not hasattr(mtrl_fairgrad, '__wrapped__')\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
        "from mtrl_fairgrad import FairGrad\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
