"""Which of Hydra's plugins these launchers stand in for, by the names that their configs have."""

from acgd.sweep.launchers.joblib import Joblib
from acgd.sweep.launchers.ray import Ray
from acgd.sweep.launchers.submitit import Local, Slurm

REPLACED = {
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": Joblib,
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": Local,
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": Slurm,
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher": Ray,
}
