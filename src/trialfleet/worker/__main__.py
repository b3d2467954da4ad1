"""python -m trialfleet.worker SUBMISSION.json: what the launcher's script starts, once for each task of the job."""

from trialfleet.worker import signals

if __name__ == "__main__":
    signals.install()
    import sys

    from trialfleet.worker.ending import end_process
    from trialfleet.worker.main import exit_code

    end_process(exit_code(sys.argv[1]))
