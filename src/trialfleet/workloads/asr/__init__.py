"""Speech to text: strings of spoken digits, read out as characters, scored by word and character error rate."""

from trialfleet.workloads.asr.transcriber import Transcriber
from trialfleet.workloads.asr.workload import Asr

__all__ = ["Asr", "Transcriber"]
