"""faster-whisper in a process of its own: one JSON request a line on stdin, one JSON answer a line on stdout.

    fw_worker.py MODEL_DIR THREADS   then   {"path": ..., "beam": 1, "batch": 0}
"""

import json
import sys

from faster_whisper import BatchedInferencePipeline, WhisperModel


def main() -> None:
    model = WhisperModel(sys.argv[1], device="cpu", compute_type="int8", cpu_threads=int(sys.argv[2]))
    batched = BatchedInferencePipeline(model)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        # The library's defaults but for what the comparison fixes: language, beam, batch.
        if request["batch"]:
            segments, _ = batched.transcribe(
                request["path"], language="en", beam_size=request["beam"], batch_size=request["batch"]
            )
        else:
            segments, _ = model.transcribe(request["path"], language="en", beam_size=request["beam"])
        text = "".join(segment.text for segment in segments)
        print(json.dumps({"text": text}), flush=True)


main()
