// The round trip, measured by lines that the service answers: `ping 7` by `pong 7`. The answers never reach the terminal.

const MARK = "pong ";
const MAX_ANSWER = 32; // characters a line beginning like an answer may have and still be one

export class Pings {
  best = Infinity; // milliseconds
  bytes = 0; // bytes of all answers, which do not count as payload
  #sent = new Map(); // number: when it was sent
  #next = 1;
  #lineStart = true; // whether the next character begins a line
  #carry = ""; // the beginning of a line that may become an answer
  #onTime;

  constructor(onTime) {
    this.#onTime = onTime;
  }

  // The line to send now, or null while an answer is still to come.
  line(now) {
    if (this.#sent.size) return null;
    this.#sent.set(this.#next, now);
    return `ping ${this.#next++}\n`;
  }

  // Milliseconds for which an answer has been waited for.
  waiting(now) {
    const [first] = this.#sent.values();
    return first === undefined ? 0 : now - first;
  }

  // Take the answers out of what came.
  filter(text, now) {
    text = this.#carry + text;
    this.#carry = "";
    let at = this.#lineStart ? 0 : text.indexOf("\n") + 1 || text.length;
    const kept = [text.slice(0, at)];
    while (at < text.length) {
      // `at` is the beginning of a line
      const line = this.#answer(text, at, now);
      if (line === null) {
        this.#carry = text.slice(at);
        break;
      }
      const next = line || (text.indexOf("\n" + MARK[0], at) + 1 || this.#lastLine(text, at));
      if (!line) kept.push(text.slice(at, next));
      at = next;
    }
    const shown = kept.join("");
    if (text) this.#lineStart = this.#carry !== "" || text.endsWith("\n");
    return shown;
  }

  // Where the answer at this place ends; 0 if there is none, null if that is not known yet.
  #answer(text, at, now) {
    const head = text.slice(at, at + MARK.length);
    if (!MARK.startsWith(head)) return 0;
    const end = text.indexOf("\n", at);
    if (end < 0) return text.length - at < MAX_ANSWER && this.#sent.size ? null : 0;
    if (head !== MARK || end - at > MAX_ANSWER) return 0;
    const number = Number(text.slice(at + MARK.length, end));
    const sent = this.#sent.get(number);
    if (sent === undefined) return 0;
    this.#sent.delete(number);
    this.bytes += end + 1 - at;
    this.best = Math.min(this.best, now - sent);
    this.#onTime(now - sent);
    return end + 1;
  }

  // The beginning of the text's last line, if that is behind the place and could become an answer; else the text's end.
  #lastLine(text, at) {
    const start = text.lastIndexOf("\n") + 1;
    return start > at ? start : text.length;
  }
}
