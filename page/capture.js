// The microphone's samples as 24 kHz signed 16 bits, 100 ms a message. Runs on the audio thread.
const RATE = 24000;
const CHUNK = 2400;

registerProcessor('capture', class extends AudioWorkletProcessor {
	constructor() {
		super();
		this.step = sampleRate / RATE;
		this.chunk = new Int16Array(CHUNK);
		this.filled = 0;
		this.place = 0;
		this.sum = 0;
		this.count = 0;
		this.most = 0;
	}

	/** The mean of what lies between two samples of the slower rate; where the rates are equal, the sample itself. */
	process([[samples]]) {
		if (!samples) return true;
		for (const sample of samples) {
			this.sum += sample;
			this.count++;
			this.place++;
			if (this.place < this.step) continue;
			this.place -= this.step;
			this.push(this.sum / this.count);
			this.sum = this.count = 0;
			// Slower than 24 kHz: the same sample again.
			while (this.place >= this.step) {
				this.place -= this.step;
				this.push(sample);
			}
		}
		return true;
	}

	push(value) {
		const bounded = Math.max(-1, Math.min(1, value));
		this.most = Math.max(this.most, Math.abs(bounded));
		this.chunk[this.filled++] = bounded * 32767;
		if (this.filled < CHUNK) return;
		this.port.postMessage({ samples: this.chunk, level: this.most }, [this.chunk.buffer]);
		this.chunk = new Int16Array(CHUNK);
		this.filled = 0;
		this.most = 0;
	}
});
