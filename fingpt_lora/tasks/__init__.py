"""What the model is asked: one file per task."""

from __future__ import annotations

from fingpt_lora.sections import TaskSection
from fingpt_lora.tasks.base import Labelled, Task, Written, named
from fingpt_lora.tasks.choice import choice_task, relation_task
from fingpt_lora.tasks.custom import custom_task
from fingpt_lora.tasks.entity import EntityTask
from fingpt_lora.tasks.event import event_task
from fingpt_lora.tasks.event_extraction import EventExtractionTask
from fingpt_lora.tasks.forecast import ForecastTask, ReasonedForecastTask
from fingpt_lora.tasks.headline import headline_task
from fingpt_lora.tasks.question import QuestionTask
from fingpt_lora.tasks.relation_extraction import RelationExtractionTask
from fingpt_lora.tasks.sentiment import SentimentTask
from fingpt_lora.tasks.text import TextTask

__all__ = ["ForecastTask", "ReasonedForecastTask", "SentimentTask", "Task", "TextTask", "Written", "build_task"]


def build_task(section: TaskSection) -> Labelled | Written | TextTask:
    """Return the task that a recipe's ``task`` section describes."""
    if section.name == "forecast":
        forecast = ForecastTask(section.target, section.horizon, section.flat_below, section.language)
        return ReasonedForecastTask(forecast) if section.rationale else forecast
    if section.name == "choice":
        return choice_task(str(section.question), section.choices, section.language)
    if section.name == "relation":
        return relation_task(section.choices, section.language)
    if section.name == "entity":
        return EntityTask(named(section.types), section.language)
    if section.name == "relation_extraction":
        return RelationExtractionTask(named(section.choices), section.language)
    if section.name == "event_extraction":
        return EventExtractionTask(section.roles, section.language, section.triggers)
    if section.name == "question":
        return QuestionTask(section.language)
    if section.name == "custom":
        return custom_task(str(section.python), section.options)
    if section.name == "text":
        return TextTask(section.language)
    if section.name == "event":
        return event_task(section.types, section.language)
    if section.name == "headline":
        return headline_task(section.language)
    return SentimentTask(label_count=section.labels, asked_in=section.language)
