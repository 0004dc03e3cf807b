"""Weighting: how the gradients of K tasks become one direction. Tensors in, tensors out.

Each method is one module, listed in `registry`.
"""

from mtrl_fairgrad.weighting.aligned_mtl import AlignedMTL as AlignedMTL
from mtrl_fairgrad.weighting.alpha_fair import alpha_fair as alpha_fair
from mtrl_fairgrad.weighting.base import Aggregate as Aggregate
from mtrl_fairgrad.weighting.base import GramianWeighting as GramianWeighting
from mtrl_fairgrad.weighting.base import JacobianAggregation as JacobianAggregation
from mtrl_fairgrad.weighting.base import LossWeighting as LossWeighting
from mtrl_fairgrad.weighting.base import Method as Method
from mtrl_fairgrad.weighting.base import Weights as Weights
from mtrl_fairgrad.weighting.cagrad import CAGrad as CAGrad
from mtrl_fairgrad.weighting.db_mtl import DBMTL as DBMTL
from mtrl_fairgrad.weighting.dwa import DWA as DWA
from mtrl_fairgrad.weighting.fairgrad import FairGrad as FairGrad
from mtrl_fairgrad.weighting.famo import FAMO as FAMO
from mtrl_fairgrad.weighting.graddrop import GradDrop as GradDrop
from mtrl_fairgrad.weighting.gradvac import GradVac as GradVac
from mtrl_fairgrad.weighting.imtl_g import IMTLG as IMTLG
from mtrl_fairgrad.weighting.ls import LS as LS
from mtrl_fairgrad.weighting.mgda import MGDA as MGDA
from mtrl_fairgrad.weighting.moco import MoCo as MoCo
from mtrl_fairgrad.weighting.nash_mtl import NashMTL as NashMTL
from mtrl_fairgrad.weighting.pcgrad import PCGrad as PCGrad
from mtrl_fairgrad.weighting.products import contract as contract
from mtrl_fairgrad.weighting.products import gramian as gramian
from mtrl_fairgrad.weighting.products import jacobian_like as jacobian_like
from mtrl_fairgrad.weighting.registry import make_method as make_method
from mtrl_fairgrad.weighting.registry import method_names as method_names
from mtrl_fairgrad.weighting.registry import method_options as method_options
from mtrl_fairgrad.weighting.registry import register_method as register_method
from mtrl_fairgrad.weighting.rlw import RLW as RLW
from mtrl_fairgrad.weighting.si import SI as SI
from mtrl_fairgrad.weighting.stch import STCH as STCH
from mtrl_fairgrad.weighting.stl import STL as STL
from mtrl_fairgrad.weighting.upgrad import UPGrad as UPGrad
from mtrl_fairgrad.weighting.uw import UW as UW
