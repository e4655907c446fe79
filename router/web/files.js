// The files' window: a folder of the home, downloads, and uploads that go on after a cut.
import { $, Fault, bytes, currentToken, get, make, showFault, t, unreachable } from "./common.js";

const TRIES = 30;

export class Files {
  limit = Infinity;
  #id;
  #folder = [];

  constructor(id) {
    this.#id = id;
    $("pick").onchange = () => {
      this.bring([...$("pick").files]);
      $("pick").value = "";
    };
    const drop = $("drop");
    drop.addEventListener("dragover", () => drop.classList.add("over"));
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", () => drop.classList.remove("over"));
  }

  #address(verb, values) {
    return `/web/files/${verb}?${new URLSearchParams({ id: this.#id, ...values })}`;
  }

  /** Shows a folder; the one shown last, when none is named. */
  async open(folder = this.#folder) {
    showFault($("files-fault"));
    try {
      const { entries, more } = await get(this.#address("list", { folder: folder.join("/") }));
      this.#folder = folder;
      this.#draw(entries, more);
    } catch (fault) {
      showFault($("files-fault"), fault);
      if (folder.length && fault.code === "R401") this.open(folder.slice(0, -1));
    }
  }

  #draw(entries, more) {
    const parts = [t("home"), ...this.#folder];
    $("path").replaceChildren(
      ...parts.map((name, depth) => {
        const button = make("button", { type: "button", textContent: name, onclick: () => this.open(this.#folder.slice(0, depth)) });
        if (depth === parts.length - 1) button.setAttribute("aria-current", "true");
        return button;
      }),
    );
    entries.sort((a, b) => b.folder - a.folder || a.name.localeCompare(b.name));
    const rows = entries.map((entry) => make("li", {}, entry.folder ? this.#folderRow(entry) : this.#fileRow(entry)));
    if (!rows.length) rows.push(make("li", { className: "void", textContent: t("empty") }));
    if (more) rows.push(make("li", { className: "void", textContent: t("more") }));
    $("entries").replaceChildren(...rows);
  }

  #folderRow({ name }) {
    const label = make("span", { className: "name", textContent: name });
    const row = make("button", { type: "button", onclick: () => this.open([...this.#folder, name]) }, make("i", { className: "folder" }), label);
    row.append(make("span", { className: "hint", textContent: t("folder") }));
    return row;
  }

  #fileRow({ name, size }) {
    const file = [...this.#folder, name].join("/");
    const link = make("a", { href: this.#address("get", { file }), download: name, title: t("download", name) }, make("i", { className: "file" }));
    link.append(make("span", { className: "name", textContent: name }), make("span", { className: "hint", textContent: bytes(size) }));
    return link;
  }

  /** Uploads files into the folder that is shown, one after the other. */
  async bring(list) {
    for (const file of list) await this.#upload(file);
    this.open();
  }

  async #upload(file) {
    const line = make("span");
    const bar = make("progress", { max: Math.max(1, file.size), value: 0 });
    bar.setAttribute("aria-label", file.name);
    $("transfers").prepend(make("li", {}, line, bar));
    const percent = (done) => String(Math.floor((100 * done) / Math.max(1, file.size)));
    const tell = (done) => {
      bar.value = done;
      line.textContent = t("uploading", file.name, percent(done));
    };
    tell(0);
    const upload = [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
    try {
      if (file.size > this.limit) throw new Fault({ code: "R407", detail: bytes(this.limit) });
      const name = await this.#persist(file, upload, tell, (done) => (line.textContent = t("resuming", file.name, percent(done))));
      line.textContent = t("uploaded", name);
      bar.remove();
    } catch (fault) {
      line.className = "bad";
      line.textContent = `${file.name}: ${fault.message}${fault.detail ? ` (${fault.detail})` : ""}`;
      bar.remove();
    }
  }

  /** A network that is lost is waited for; what arrived is not sent again. */
  async #persist(file, upload, tell, resumed) {
    for (let attempt = 0, offset = 0; ; attempt++) {
      try {
        return (await this.#put(file, upload, offset, tell)).name;
      } catch (fault) {
        if (!["R000", "R404", "R408", "R406", "R409"].includes(fault.code) || attempt === TRIES) throw fault;
        await new Promise((done) => setTimeout(done, Math.min(1000 * (attempt + 1), 5000)));
        const { have, name } = await get(this.#address("have", { upload })).catch(() => ({ have: offset }));
        // It was whole, and only the answer was lost.
        if (name !== undefined) return name;
        offset = have;
        resumed(offset);
      }
    }
  }

  #put(file, upload, offset, tell) {
    const values = { upload, folder: this.#folder.join("/"), name: file.name, offset, total: file.size };
    return new Promise((done, fail) => {
      const request = new XMLHttpRequest();
      request.open("PUT", this.#address("put", values));
      request.setRequestHeader("X-Roost-Token", currentToken());
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.responseType = "json";
      request.upload.onprogress = (event) => tell(offset + event.loaded);
      request.onerror = () => fail(unreachable());
      request.onload = () => {
        const body = request.response ?? {};
        request.status < 300 ? done(body) : fail(new Fault(body.code ? body : { code: "R408", detail: String(request.status) }));
      };
      request.send(file.slice(offset));
    });
  }
}
