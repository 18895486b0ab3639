"""OpenVINO GenAI in a process of its own: one JSON request a line on stdin, one JSON answer a line on stdout.

    ov_worker.py MODEL_DIR THREADS   then   {"path": ...}
"""

import json
import sys

import openvino_genai
import soundfile


def main() -> None:
    pipeline = openvino_genai.WhisperPipeline(sys.argv[1], "CPU", INFERENCE_NUM_THREADS=int(sys.argv[2]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        samples, rate = soundfile.read(json.loads(line)["path"], dtype="float32")
        assert rate == 16_000
        # Files of more than 30 s are only taken with timestamps.
        heard = pipeline.generate(
            samples.tolist(),
            language="<|en|>",
            task="transcribe",
            return_timestamps=len(samples) > 30 * rate,
            num_beams=1,
        )
        print(json.dumps({"text": str(heard)}), flush=True)


main()
