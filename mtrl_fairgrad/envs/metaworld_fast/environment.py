# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names come from compiled modules.)
"""Meta-World's environments with their hot methods replaced, bit-identical."""

import sys
from functools import cache
from types import FunctionType, ModuleType
from typing import Any
from weakref import finalize

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils
from metaworld.utils.reward_utils import hamacher_product
from numpy.typing import NDArray

from mtrl_fairgrad.envs.metaworld_fast.arithmetic import QuickRotation, clip, norm, tolerance
from mtrl_fairgrad.envs.metaworld_fast.named_access import NamedData
from mtrl_fairgrad.envs.metaworld_fast.reset_cache import Resets

FORWARD = np.array([1, 0, 1, 0], np.float64)
"""Orientation of the hand."""
DECORATED = SawyerXYZEnv._Decorators.assert_task_is_set(print).__code__
"""Identifies a method decorated by Meta-World."""
OBJECTS = ((3, 4), (6, 8))
"""Lengths of positions and rotations of one object and of two."""


def _variant(module: ModuleType, **changes: Any) -> ModuleType:
    """Copy a module's namespace with some names changed; the module itself is unchanged."""
    variant = ModuleType(module.__name__)
    variant.__dict__.update(module.__dict__, **changes)
    return variant


STAND_INS = {
    "np": _variant(np, linalg=_variant(np.linalg, norm=norm)),
    "reward_utils": _variant(reward_utils, tolerance=tolerance),
    "tolerance": tolerance,
    "Rotation": QuickRotation,
}
"""Replacements for the modules that the official code of tasks imports."""


@cache
def fast_environment(task: str) -> type[SawyerXYZEnv]:
    """Return the class of a task's environment, a subclass of the official one.

    The task's own methods are the official ones with other globals: `STAND_INS`, and this class in
    place of the official one.
    """
    official = ALL_V3_ENVIRONMENTS[task]
    names = dict(vars(sys.modules[official.__module__]))
    names.update({name: STAND_INS[name] for name in STAND_INS.keys() & names.keys()})
    own = {
        name: _rerouted(member, names)
        for name, member in vars(official).items()
        if not name.startswith("__")
    }
    made = names[official.__name__] = type(official.__name__, (FastSawyer, official), own)
    return made


def _rerouted(member: Any, names: dict[str, Any]) -> Any:
    """Return a method, property or static method that looks up its globals in `names`."""
    if isinstance(member, property):
        return property(_rerouted(member.fget, names))
    if isinstance(member, staticmethod):
        return staticmethod(_rerouted(member.__func__, names))
    if not isinstance(member, FunctionType):
        return member
    if member.__code__ is DECORATED and member.__closure__:
        return SawyerXYZEnv._Decorators.assert_task_is_set(
            _rerouted(member.__closure__[0].cell_contents, names)
        )
    return FunctionType(
        member.__code__, names, member.__name__, member.__defaults__, member.__closure__
    )


class FastSawyer(SawyerXYZEnv):
    """Hot methods of all tasks; `fast_environment` puts it before a task's official class."""

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model, _ = super()._initialize_simulation()
        # Otherwise each substep clears 135 KB for drawing bounding volumes, a sixth of the time.
        model.vis.global_.bvactive = 0
        data = NamedData(model)
        finalize(self, data.forget).atexit = False
        self._ctrl, self._mocap_pos, self._mocap_quat = (
            data.ctrl,
            data.mocap_pos[0],
            data.mocap_quat[0],
        )
        self._hand, self._claws = (
            data.body("hand").xpos,
            (data.body("rightclaw").xpos, data.body("leftclaw").xpos),
        )
        self._fingers = data.site("rightEndEffector").xpos, data.site("leftEndEffector").xpos
        self._pads = data.body("leftpad").xpos, data.body("rightpad").xpos
        self._pad_geoms = data.geom("leftpad_geom").id, data.geom("rightpad_geom").id
        self._resets = Resets(model, data)
        return model, data

    def reset(
        self, seed: int | None = None, options: Any = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Reset as the official method does; a goal played before is copied from memory."""
        if not self._freeze_rand_vec or self._last_rand_vec is None or self.render_mode == "human":
            return super().reset(seed, options)
        key = self._last_rand_vec.tobytes(), self._partially_observable
        return self._resets.reset(self, key, super().reset)

    def step(self, action: Any) -> tuple[NDArray[np.float64], Any, bool, bool, dict[str, Any]]:
        """Step as the official method does."""
        if (
            not self._set_task_called
            or self.curr_path_length >= self.max_path_length
            or self._did_see_sim_exception
        ):
            return super().step(action)
        assert len(action) == 4, f"Actions should be size 4, got {len(action)}"
        self.set_xyz_action(action[:3])
        self._step_mujoco_simulation((action[-1], -action[-1]), self.frame_skip)
        self.curr_path_length += 1
        # The official step writes the places of target sites here, and mj_forward computes them
        # again.
        mujoco.mj_forward(self.model, self.data)
        space = self.sawyer_observation_space
        stable = self._last_stable_obs = clip(self._get_obs(), space.low, space.high)
        reward, info = self.evaluate_state(stable, action)
        return stable.copy(), reward, False, self.curr_path_length == self.max_path_length, info

    def set_xyz_action(self, action: NDArray[Any]) -> None:
        """Move the mocap body by an action [3]."""
        # Clipped and scaled in the action's own precision, usually float32.
        moved = self._mocap_pos + clip(action, -1, 1) * self.action_scale
        clip(moved, self.mocap_low, self.mocap_high, self._mocap_pos)
        self._mocap_quat[:] = FORWARD

    def _step_mujoco_simulation(self, ctrl: Any, n_frames: int) -> None:
        # Without the official mj_rnePostConstraint: no sensor, observation or reward reads body
        # forces.
        self._ctrl[0], self._ctrl[1] = ctrl
        mujoco.mj_step(self.model, self.data, n_frames)

    @property
    def tcp_center(self) -> NDArray[Any]:
        """Midpoint between the fingers [3]."""
        right, left = self._fingers
        return (right + left) / 2.0

    def touching_object(self, object_geom_id: int) -> bool:
        """Return whether both pads press on a geom."""
        contact, pressed = self.data.contact, False
        pairs = contact.geom.tolist()
        for pad in self._pad_geoms:
            places = [
                place for place, pair in enumerate(pairs) if pad in pair and object_geom_id in pair
            ]
            pressed = bool(places) and sum(self.data.efc_force[contact.efc_address[places]]) > 0
            if not pressed:
                break
        return pressed

    def _get_curr_obs_combined_no_goal(self) -> NDArray[np.float64]:
        places, turns = self._get_pos_objects().tolist(), self._get_quat_objects().tolist()
        if (len(places), len(turns)) not in OBJECTS:
            return super()._get_curr_obs_combined_no_goal()
        right, left = self._claws
        # Sometimes a little beyond 0.1 m, which counts as 0.1 m, as in the official code.
        opened = min(max(float(norm(right - left)) / 0.1, 0.0), 1.0)
        objects = [*places[:3], *turns[:4], *places[3:], *turns[4:]]
        padding = [0.0] * (self._obs_obj_max_len - len(objects))
        return np.array([*self._hand.tolist(), opened, *objects, *padding])

    def _get_obs(self) -> NDArray[np.float64]:
        goal = self._get_pos_goal()
        if self._partially_observable:
            goal = np.zeros_like(goal)
        current = self._get_curr_obs_combined_no_goal()
        observation = np.concatenate((current, self._prev_obs, goal))
        self._prev_obs = current
        return observation

    def _gripper_caging_reward(
        self,
        action: NDArray[np.float32],
        obj_pos: NDArray[Any],
        obj_radius: float,
        pad_success_thresh: float,
        object_reach_radius: float,
        xz_thresh: float,
        desired_gripper_effort: float = 1.0,
        high_density: bool = False,
        medium_density: bool = False,
    ) -> float:
        assert self.obj_init_pos is not None
        if high_density and medium_density:
            raise ValueError("Can only be either high_density or medium_density")
        start, tcp, along_y = self.obj_init_pos, self.tcp_center, []
        place_y, start_y = float(obj_pos[1]), float(start[1])
        for pad in self._pads:
            pad_y = float(pad[1])
            margin = abs(abs(pad_y - start_y) - pad_success_thresh)
            along_y.append(
                tolerance(
                    abs(pad_y - place_y), (obj_radius, pad_success_thresh), margin, "long_tail"
                )
            )
        margin = norm((start - self.init_tcp)[::2].copy()) - xz_thresh
        across = tolerance(norm((tcp - obj_pos)[::2].copy()), (0, xz_thresh), margin, "long_tail")
        caging = hamacher_product(hamacher_product(*along_y), float(across))
        # The precision from here on is that of the action, so its entry is not made a float.
        closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
        reward = hamacher_product(caging, closed if caging > 0.97 else 0.0)
        if high_density:
            reward = (reward + caging) / 2
        if medium_density:
            margin = abs(norm(start - self.init_tcp) - object_reach_radius)
            reach = tolerance(norm(obj_pos - tcp), (0, object_reach_radius), margin, "long_tail")
            reward = (reward + float(reach)) / 2
        return reward
