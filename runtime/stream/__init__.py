"""Many frames at once: threads, queues, the end of a run."""
