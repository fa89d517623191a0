// The scroll-back: text comes in at any speed, and is shown once a frame, bounded, and never as anything but text.

import { size } from "./units.js";

const MAX_SHOWN = 128 * 1024; // characters kept on the page
const MAX_WAITING = 48 * 1024; // characters that one frame shows; older ones are skipped, and counted in a notice
const MAX_BLOCK = 4 * 1024; // characters in one element, after which a line's end begins the next
const MAX_CARRY = 256; // characters of an escape sequence whose end has not come

const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)|[PX^_][^\x07\x1b]{0,256}\x1b\\|[ -/]*[0-OQ-WYZ\\`-~])|\r(?=\n)/g;
const UNFINISHED = /(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)|\r)$/;
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

// `^G` and the like, as terminals write them; what only fools the eye becomes a replacement character.
function picture(character) {
  const code = character.charCodeAt(0);
  return code < 0x80 ? `^${String.fromCharCode(code ^ 0x40)}` : "\ufffd";
}

// Strips escape sequences and makes other control characters visible; keeps what a later piece may complete.
export class Plain {
  #carry = "";

  push(text) {
    text = this.#carry + text;
    const from = Math.max(0, text.length - MAX_CARRY);
    const unfinished = UNFINISHED.exec(text.slice(from));
    const end = unfinished ? from + unfinished.index : text.length;
    this.#carry = text.slice(end);
    return text.slice(0, end).replace(ESCAPES, "").replace(CONTROLS, picture);
  }
}

export class Terminal {
  #element;
  #plain = new Plain();
  #waiting = []; // {text, kind} in their order
  #length = 0; // characters waiting
  #skipped = 0; // characters not shown since the last frame
  #shown = 0; // characters on the page
  #due = false;
  #top = 0; // the scroll position last seen
  #follow = true; // whether the reader is at the end, and stays there

  constructor(element) {
    this.#element = element;
    element.addEventListener("scroll", () => this.#scrolled());
    new ResizeObserver(() => this.#toEnd()).observe(element);
  }

  // Show text of a kind: "out" what the service sent, "in" what the user sent, "note" the page's own words.
  write(text, kind = "out") {
    if (!text) return;
    this.#waiting.push({ text, kind });
    this.#length += text.length;
    while (this.#length > MAX_WAITING) {
      const first = this.#waiting[0];
      const spare = this.#length - MAX_WAITING;
      const whole = first.text.length <= spare;
      const cut = whole ? first.text.length : first.text.indexOf("\n", spare) + 1 || spare;
      if (whole) this.#waiting.shift();
      else first.text = first.text.slice(cut);
      this.#length -= cut;
      this.#skipped += cut;
    }
    if (!this.#due) {
      this.#due = true;
      requestAnimationFrame(() => this.#show());
    }
  }

  // Begin a new connection: nothing half-read is left over.
  restart() {
    this.#plain = new Plain();
  }

  #show() {
    this.#due = false;
    const box = this.#element;
    if (this.#skipped) {
      this.#plain = new Plain();
      this.#append(`\u2026 ${size(this.#skipped)} went by unseen \u2026\n`, "note");
      this.#skipped = 0;
    }
    for (const { text, kind } of this.#waiting) {
      this.#append(kind === "out" ? this.#plain.push(text) : text, kind);
    }
    this.#waiting = [];
    this.#length = 0;
    while (this.#shown > MAX_SHOWN && box.childElementCount > 1) {
      this.#shown -= box.firstElementChild.textContent.length;
      box.firstElementChild.remove();
    }
    this.#toEnd();
  }

  #toEnd() {
    if (this.#follow) this.#element.scrollTop = this.#element.scrollHeight;
    this.#top = this.#element.scrollTop;
  }

  // Only the reader scrolls back: the end also moves away when the terminal becomes smaller.
  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#element;
    if (scrollHeight - scrollTop - clientHeight < 40) this.#follow = true;
    else if (scrollTop < this.#top) this.#follow = false;
    this.#top = scrollTop;
  }

  // Append to the last element while its line goes on or it is small; elements end with a line, save for endless lines.
  #append(text, kind) {
    while (text) {
      let last = this.#element.lastElementChild;
      const kept = last?.textContent ?? "";
      const open = last && last.className === kind && (kept.length < MAX_BLOCK / 2 || !kept.endsWith("\n")) && kept.length < MAX_BLOCK;
      const room = open ? MAX_BLOCK - kept.length : MAX_BLOCK;
      const cut = text.length <= room ? text.length : text.lastIndexOf("\n", room - 1) + 1 || room;
      if (!open) {
        last = document.createElement("div");
        last.className = kind;
        this.#element.append(last);
      }
      last.append(document.createTextNode(text.slice(0, cut)));
      this.#shown += cut;
      text = text.slice(cut);
    }
  }
}
