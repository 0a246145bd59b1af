"""
Modules by the names that they had before, for files that were saved then: pickle, and so what
Stable-Baselines3 saves, names classes by their modules. Nothing is imported before it is asked for.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "sb3_rfm"
# Within the package: the name in saved files, the module now. What cannot be in a file is not here.
MOVED = {
    "baselines": "algorithms",
    "baselines.dpmd": "algorithms.dpmd",
    "baselines.dqs": "algorithms.dqs",
    "baselines.idem": "algorithms.idem",
    "baselines.qne": "algorithms.qne",
    "baselines.qsm": "algorithms.qsm",
    "baselines.qvpo": "algorithms.qvpo",
    "baselines.sac": "algorithms.sac",
    "baselines.sac_policy": "algorithms.sac_policy",
    "baselines.sdac": "algorithms.sdac",
    "rfm_diffusion": "algorithms",
    "rfm_diffusion.rfm_diffusion": "algorithms.rfm_diffusion",
    "rfm_flow": "algorithms",
    "rfm_flow.rfm_flow": "algorithms.rfm_flow",
    "common.choices": "common.selection",
    "common.examples": "common.earlier",
    "common.row": "common.earlier",
    "critic_gradients": "common.critic_gradients",
    "critic_networks": "common.critic_networks",
    "critics": "common.critics",
    "hidden_layers": "common.hidden_layers",
    "networks": "common.networks",
    "observations": "common.observations",
    "episodes": "experiments.episodes",
    "sampling.approximations": "sampling.estimators.approximations",
    "sampling.bounded": "sampling.estimators.bounded",
    "sampling.box_laws": "sampling.estimators.box_fits",
    "sampling.chains": "sampling.estimators.mala",
    "sampling.estimators.chains": "sampling.estimators.mala",
    "sampling.control_variates": "sampling.estimators.control_variates",
    "sampling.log_densities": "sampling.flow_density",
    "sampling.posteriors": "sampling.estimators.posteriors",
    "sampling.proposals": "sampling.estimators.proposals",
    "sampling.refinements": "sampling.estimators.refinements",
    "sampling.truncated_mixtures": "sampling.numerics.truncated_mixtures",
    "sampling.truncated_normals": "sampling.numerics.truncated_normals",
}


class MovedModules:
    """Finds a module by its earlier name: the one of today itself, never a second copy."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """
        Answer the import system, as ``importlib.abc.MetaPathFinder`` has it.

        :param name: of the module that is asked for, in full
        :param path: of its package
        :param target: a module that is being loaded again
        :return: its specification, or None where no module had that name
        """
        package, _, module = name.partition(".")
        if package != PACKAGE or module not in MOVED:
            return None
        return ModuleSpec(name, self)  # type: ignore[arg-type]  # a Loader's abc costs ten imports

    def create_module(self, spec: ModuleSpec) -> None:
        """
        Leave it to the import system, which :meth:`exec_module` gives another.

        :param spec: of :meth:`find_spec`
        """

    def exec_module(self, module: ModuleType) -> None:
        """
        Put today's module in the place of an empty one.

        :param module: the empty one, of the earlier name
        """
        name = module.__name__.partition(".")[2]
        sys.modules[module.__name__] = import_module(f"{PACKAGE}.{MOVED[name]}")


def find_moved_modules() -> None:
    """
    Let imports find modules by their earlier names.

    First in line: the files of a folder that moved would else be found under its earlier name, as
    modules of their own.
    """
    sys.meta_path.insert(0, MovedModules())
