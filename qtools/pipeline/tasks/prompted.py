"""A picture and prompts to masks: two programs, whose own tasks are `features` and `masks`; judged as the second is."""

from __future__ import annotations

import dataclasses

from qtools.pipeline.tasks import masks

TASK = dataclasses.replace(masks.TASK, halves=True)
