"""Task gradients: one Jacobian for disjoint task data, or K losses of one shared graph."""

from mtrl_fairgrad.gradients.conventions import CONVENTIONS as CONVENTIONS
from mtrl_fairgrad.gradients.conventions import Convention as Convention
from mtrl_fairgrad.gradients.official import official_convention as official_convention
from mtrl_fairgrad.gradients.per_task import combine as combine
from mtrl_fairgrad.gradients.per_task import task_gradients as task_gradients
from mtrl_fairgrad.gradients.shared_graph.backward import Accumulator as Accumulator
from mtrl_fairgrad.gradients.shared_graph.backward import backward as backward
