"""Virtual trials: virtual patients through arms that share their random numbers, endpoints with Monte-Carlo errors."""

from tdt_core.trials.endpoints import ENDPOINTS, Comparison, Estimate, compare
from tdt_core.trials.engine import Design, simulate_block, simulate_patient

__all__ = ["ENDPOINTS", "Comparison", "Design", "Estimate", "compare", "simulate_block", "simulate_patient"]
