// The WebSocket of one desktop: texts are for the page, binary messages for the viewer.

/** The node says something at least every 5 s; after this long without a word the network is dead. */
const DEAD = 12_000;

export class Channel {
  // What the viewer expects of a WebSocket.
  binaryType = "arraybuffer";
  protocol = "";
  onopen = null;
  onclose = null;
  onerror = null;
  onmessage = null;

  #socket;
  #ended;
  #told;
  #timer;
  #fault = null;

  /** `told` gets each text as an object; `ended` gets the close code and the fault, once. */
  constructor(address, told, ended) {
    this.#told = told;
    this.#ended = ended;
    this.#socket = new WebSocket(address);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onmessage = (event) => this.#message(event);
    this.#socket.onclose = (event) => this.#end(event.code);
    this.#alive();
  }

  get readyState() {
    return this.#ended ? this.#socket.readyState : WebSocket.CLOSED;
  }

  send(data) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(data);
  }

  /** The user, or the viewer, ends it. */
  close() {
    this.#end(1000);
  }

  /** A network that died says nothing by itself. */
  lost() {
    this.#end(1006);
  }

  #alive() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.lost(), DEAD);
  }

  #message(event) {
    if (!this.#ended) return;
    this.#alive();
    if (typeof event.data !== "string") {
      this.onmessage?.(event);
      return;
    }
    const told = JSON.parse(event.data);
    if (told.fault) this.#fault = told.fault;
    this.#told(told);
  }

  #end(code) {
    if (!this.#ended) return;
    const ended = this.#ended;
    this.#ended = null;
    clearTimeout(this.#timer);
    this.#socket.close();
    // The page first: it keeps the last picture, which the viewer takes away.
    ended(code, this.#fault);
    this.onclose?.({ code, reason: "", wasClean: true });
  }
}
