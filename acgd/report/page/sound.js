// The player: one sound at a time, its picture as the time line.

const speaker = new Audio();
let playing = null;

function player(row) {
  if (!row.sound) return null;
  const button = h("button", { type: "button", "aria-label": `Play ${row.label}` }, icon("play"));
  const line = h("i");
  const about = `Waveform and spectrogram of ${row.label}`;
  const picture = h("figure", {}, h("img", { src: row.sound.webp, alt: about, loading: "lazy", decoding: "async" }), line);
  const own = { row, button, line };
  button.addEventListener("click", () => (playing === own && !speaker.paused ? speaker.pause() : play(own)));
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    play(own, (event.clientX - box.left) / box.width);
  });
  return h("div", { class: "sound" }, button, picture);
}

function play(own, at = null) {
  if (playing !== own) {
    speaker.pause();
    if (playing) { show(false); playing.line.removeAttribute("style"); }
    playing = own;
    speaker.src = own.row.sound.mp3;
  }
  const go = () => { if (at !== null && speaker.duration) speaker.currentTime = at * speaker.duration; };
  if (speaker.readyState > 0) go();
  else speaker.addEventListener("loadedmetadata", go, { once: true });
  speaker.play().catch(() => say("This sound cannot be played"));
}

function show(on) {
  playing.button.replaceChildren(icon(on ? "pause" : "play"));
  playing.button.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${playing.row.label}`);
}

function follow() {
  if (!playing || !speaker.duration) return;
  playing.line.style.width = `${(100 * speaker.currentTime) / speaker.duration}%`;
  if (!speaker.paused) requestAnimationFrame(follow);
}

speaker.addEventListener("play", () => { show(true); follow(); });
speaker.addEventListener("pause", () => show(false));
speaker.addEventListener("ended", () => { show(false); playing.line.removeAttribute("style"); });
