"""The cacheable steps of a run, from data to predictions."""

from kdc.stages.artifacts import (
    Seen,
    attributions_step,
    compress_step,
    export_step,
    predictions_step,
    read_attributions,
    read_outputs,
)
from kdc.stages.base import ARTIFACT, MODEL, SUMMARY, Data, Step, World, summary
from kdc.stages.data import data_step, described, loaded, read_data, read_transfer, transfer_step
from kdc.stages.recovery import recovery_step
from kdc.stages.students import Pupil, Taught, peer_step, student_step
from kdc.stages.teachers import signals_step, teacher_step

__all__ = [
    "ARTIFACT",
    "MODEL",
    "SUMMARY",
    "Data",
    "Pupil",
    "Seen",
    "Step",
    "Taught",
    "World",
    "attributions_step",
    "compress_step",
    "data_step",
    "described",
    "export_step",
    "loaded",
    "peer_step",
    "predictions_step",
    "read_attributions",
    "read_data",
    "read_outputs",
    "read_transfer",
    "recovery_step",
    "signals_step",
    "student_step",
    "summary",
    "teacher_step",
    "transfer_step",
]
