"""What follows from dose and time: for now the trends of laboratory values."""

from tdt_core.outcome.trends import lab_trends, trend

__all__ = ["lab_trends", "trend"]
