// SPDX-License-Identifier: Apache-2.0
"use strict";

const at = (id) => document.getElementById(id);
const forms = ["around", "optimize", "reconstruct", "neighbors", "predict"];
const named = { mw: "Molecular weight", logp: "logP", tpsa: "TPSA, Å²", qed: "QED", sa_score: "SA score (1 easy, 10 hard)" };
let given = null; // the molecule shown, canonical
let rows = []; // what is shown below, for downloads
let running = null; // aborts the request in work

async function ask(path, body, signal) {
  let response;
  try {
    response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const text = await response.text();
  let told = text;
  try {
    const { detail } = JSON.parse(text);
    told = typeof detail === "string" ? detail : detail.map((one) => one.type === "value_error" ? one.msg : `${one.loc.slice(1).join(" ")} ${one.msg}`.trim()).join(" ");
  } catch { /* not JSON: as it is */ }
  throw new Error(told);
}

const askJson = async (path, body, signal) => (await ask(path, body, signal)).json();
const pictured = (smiles, width, height) => `/v1/draw?${new URLSearchParams({ smiles, width, height })}`;
const digits = (value) => typeof value !== "number" ? value ?? "–" : Number.isInteger(value) ? `${value}` : Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(2);

function tell(place, text) {
  at(place).textContent = text;
  at(place).hidden = !text;
}

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

async function show(smiles) {
  tell("given-error", "");
  try {
    const { molecules: [found] } = await askJson("/v1/properties", { smiles: [smiles] });
    given = found.smiles;
    at("smiles").value = smiles;
    at("drawing").src = pictured(given, 290, 220);
    at("drawing").alt = `Structure of ${given}`;
    at("drawing").hidden = false;
    at("properties").replaceChildren(...Object.entries(named).flatMap(([name, words]) => [element("dt", words), element("dd", digits(found[name]))]));
  } catch (error) {
    given = null;
    at("drawing").hidden = true;
    at("properties").replaceChildren();
    tell("given-error", error.message.replace(/^Row 0 of smiles \(counted from 0\), /, "").replace(/ Fix or remove it.*$/, ""));
  }
  return given;
}

function card(smiles, told) {
  const made = at("card").content.cloneNode(true).firstElementChild;
  made.querySelector(".told").textContent = told;
  if (smiles === null) {
    made.querySelector("img").remove();
    made.querySelector("button").remove();
    return made;
  }
  made.querySelector("img").src = pictured(smiles, 230, 145);
  made.querySelector("img").alt = `Structure of ${smiles}`;
  made.querySelector("code").textContent = smiles;
  made.querySelector("button").onclick = () => { show(smiles); scrollTo({ top: 0, behavior: "smooth" }); };
  return made;
}

function showRows(found, told) {
  rows = found;
  at("found").replaceChildren(...found.map((row) => card(row.smiles, told(row))));
  at("downloads").hidden = !found.length;
}

function conditions(form) {
  const asked = {};
  for (const name of ["keep", "forbid"]) {
    const text = form.elements[name].value.trim();
    if (text) asked[name] = [text];
  }
  const ranges = {};
  for (const one of form.querySelectorAll(".ranges fieldset")) {
    const [low, high] = [".low", ".high"].map((name) => one.querySelector(name).value).map((text) => text === "" ? null : Number(text));
    if (low !== null || high !== null) ranges[one.querySelector(".property").value] = [low, high];
  }
  if (Object.keys(ranges).length) asked.ranges = ranges;
  return asked;
}

const number = (form, name) => Number(form.elements[name].value);

const answers = {
  async around(form, signal) {
    const asked = { smiles: [given], radius: number(form, "radius"), n: number(form, "n"), unique: form.elements.unique.checked, ...conditions(form) };
    const found = await askJson("/v1/sample_around", asked, signal);
    const all = found.smiles[0].map((smiles, i) => ({ smiles, similarity: found.similarity[0][i] })).filter((row) => row.smiles !== null);
    all.sort((one, other) => other.similarity - one.similarity);
    showRows(all, (row) => `similarity ${digits(row.similarity)}`);
    return `${found.summary}.`;
  },

  async optimize(form, signal) {
    const [name, weight] = form.elements.scorer.value.split(":");
    const asked = { smiles: [given], scorer: { [name]: Number(weight) }, budget: number(form, "budget"), min_similarity: number(form, "min_similarity"), table: true, stream: true, ...conditions(form) };
    const points = [];
    let last = null;
    at("stop").disabled = false;
    try {
      const response = await ask("/v1/optimize", asked, signal);
      for await (const line of lines(response)) {
        if (line.error) throw new Error(line.error);
        if (line.table) { last = line; continue; }
        points.push(line);
        draw(points, asked.budget, Number(weight));
        tell("status", `${line.scored} of ${asked.budget} molecules scored; the best has ${digits(line.best * weight)}.`);
      }
    } catch (error) {
      if (error.name !== "AbortError" || !points.length) throw error;
    } finally {
      at("stop").disabled = true;
    }
    const best = new Map();
    for (const row of last ? last.table : points.map((one) => ({ smiles: one.smiles, score: one.best }))) {
      if (row.score !== null) best.set(row.smiles, { smiles: row.smiles, score: row.score * weight, ...(row.similarity === undefined ? {} : { similarity: row.similarity }) });
    }
    const all = [...best.values()].filter((row) => row.smiles !== given).sort((one, other) => (other.score - one.score) * weight).slice(0, 24);
    showRows(all, (row) => `score ${digits(row.score)}` + (row.similarity === undefined ? "" : `, similarity ${digits(row.similarity)}`));
    const [first, end] = [points[0], points.at(-1)].map((one) => digits(one.best * weight));
    return `${last ? "" : "Stopped. "}The best score went from ${first} to ${end}, with ${points.at(-1).scored} molecules scored.`;
  },

  async reconstruct(form, signal) {
    const found = await askJson("/v1/reconstruct", { smiles: [given] }, signal);
    const row = { smiles: found.smiles[0], similarity: found.similarity[0] };
    const exact = row.smiles === found.given[0];
    const told = row.smiles === null ? "no molecule" : exact ? "exact" : `similarity ${digits(row.similarity)}`;
    showRows([{ smiles: found.given[0], what: "given" }, { ...row, what: "reconstruction" }], (one) => one.what === "given" ? "given" : `reconstruction: ${told}`);
    return exact ? "The code holds the whole molecule." : "The code holds another molecule than the one given.";
  },

  async neighbors(form, signal) {
    const found = await askJson("/v1/neighbors", { smiles: [given], neighbors: number(form, "neighbors") }, signal);
    showRows(found.neighbors[0], (row) => `cosine ${digits(row.cosine)}, Tanimoto ${digits(row.similarity)}`);
    return `The nearest of ${info.library.molecules.toLocaleString("en")} molecules.`;
  },

  async predict(form, signal) {
    const { task, targets, predictions: [found] } = await askJson("/v1/predict", { smiles: [given], level: number(form, "level") }, signal);
    const head = ["target", task === "binary" ? "probability of yes" : "prediction", task === "regression" ? "interval" : "labels not ruled out"];
    const table = element("table", null, element("tr", null, ...head.map((text) => element("th", text))));
    for (const target of targets) {
      const [low, high] = [found[`${target}_low`], found[`${target}_high`]];
      const trust = task !== "regression" ? found[`${target}_labels`].replaceAll("|", " or ") : low === null ? "without bounds: too few molecules to calibrate it" : `${digits(low)} to ${digits(high)}`;
      table.append(element("tr", null, ...[target, digits(found[`${target}_predicted`]), trust].map((text) => element("td", text))));
    }
    rows = [{ smiles: given, ...found }];
    at("found").replaceChildren(table);
    at("downloads").hidden = false;
    const far = found.distance_percentile;
    return `The molecule is further from the training molecules than ${digits(far)} % of these are from one another.` + (far > 99 ? " Do not trust this without a test." : "");
  },
};

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    text += value ?? "";
    const whole = text.split("\n");
    text = whole.pop();
    for (const line of whole) yield JSON.parse(line);
    if (done) return;
  }
}

function draw(points, budget, sign) {
  const [left, top, width, height] = [52, 14, 750, 168];
  const values = points.map((one) => one.best * sign);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (low === high) [low, high] = [low - 0.05, high + 0.05];
  const x = (scored) => left + width * scored / budget;
  const y = (value) => top + height * (high - value) / (high - low);
  const svg = at("curve").querySelector("svg");
  const part = (name, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  };
  const made = [];
  for (const value of [low, (low + high) / 2, high]) {
    made.push(part("line", { class: "axis", x1: left, x2: left + width, y1: y(value), y2: y(value) }));
    made.push(part("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, digits(value)));
  }
  for (const share of [0, 0.5, 1]) {
    made.push(part("text", { x: x(share * budget), y: top + height + 18, "text-anchor": share ? share === 1 ? "end" : "middle" : "start" }, digits(Math.round(share * budget))));
  }
  made.push(part("text", { x: left + width / 2, y: top + height + 34, "text-anchor": "middle" }, "molecules scored; the line is the best score so far"));
  const steps = points.map((one, i) => (i ? `H${x(one.scored)}` : `M${x(one.scored)},${y(values[0])}`) + `V${y(values[i])}`);
  made.push(part("path", { class: "line", d: steps.join("") }));
  svg.replaceChildren(...made);
  at("curve").hidden = false;
}

async function submit(name) {
  if (running) running.abort();
  const own = running = new AbortController();
  tell("error", "");
  at("curve").hidden = true;
  at("found").replaceChildren();
  at("downloads").hidden = true;
  rows = [];
  at("status").hidden = false;
  at("status").textContent = "Working …";
  const button = at(name).querySelector("button[type=submit]");
  button.disabled = true;
  try {
    if (!await show(at("smiles").value.trim())) throw new Error("Give a molecule first, on the left.");
    const told = await answers[name](at(name), own.signal);
    if (own === running) tell("status", told);
  } catch (error) {
    if (own === running && error.name !== "AbortError") { tell("status", ""); tell("error", error.message); }
    else if (own === running) tell("status", "Stopped.");
  } finally {
    button.disabled = false;
    if (own === running) running = null;
  }
}

function choose(name) {
  for (const one of forms) {
    at(`tab-${one}`).setAttribute("aria-selected", one === name);
    at(`tab-${one}`).tabIndex = one === name ? 0 : -1;
    at(one).hidden = one !== name;
  }
}

function save(name, text, type) {
  const link = element("a", null);
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function csv() {
  const names = [...new Set(rows.flatMap(Object.keys))];
  const field = (value) => value === null || value === undefined ? "" : /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
  const text = [names, ...rows.map((row) => names.map((name) => row[name]))].map((row) => row.map(field).join(",")).join("\n");
  save("molecules.csv", text + "\n", "text/csv");
}

async function sdf() {
  try {
    const kept = rows.filter((row) => row.smiles !== null);
    save("molecules.sdf", await (await ask("/v1/sdf", { rows: kept })).text(), "chemical/x-mdl-sdfile");
  } catch (error) {
    tell("error", error.message);
  }
}

let info = null;

async function begin() {
  for (const place of document.querySelectorAll(".conditions")) {
    place.append(at("conditions").content.cloneNode(true));
    for (const name of ["mw", "logp", "tpsa"]) {
      const range = at("range").content.cloneNode(true);
      range.querySelector("fieldset").dataset.property = name;
      place.querySelector(".ranges").append(range);
    }
  }
  for (const one of document.querySelectorAll("input[type=range]")) {
    one.oninput = () => { one.parentElement.querySelector("output").textContent = one.value; };
  }
  const tabs = () => forms.filter((name) => !at(`tab-${name}`).hidden);
  for (const name of forms) {
    at(`tab-${name}`).onclick = () => choose(name);
    at(`tab-${name}`).onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs().at((tabs().indexOf(name) + step) % tabs().length);
      choose(next);
      at(`tab-${next}`).focus();
    };
    at(name).onsubmit = (event) => { event.preventDefault(); submit(name); };
  }
  at("given").onsubmit = (event) => { event.preventDefault(); show(at("smiles").value.trim()); };
  for (const one of at("examples").querySelectorAll("button")) one.onclick = () => show(one.dataset.smiles);
  at("stop").onclick = () => running?.abort();
  at("csv").onclick = csv;
  at("sdf").onclick = sdf;
  choose("around");
  info = await (await fetch("/v1/info")).json();
  at("about").textContent = `Model ${info.checkpoint}: codes of ${info.num_latents} × ${info.latent_size} numbers, embeddings of ${info.hidden_size}.`;
  at("tab-neighbors").hidden = !info.library;
  at("tab-predict").hidden = !info.predictor;
  for (const range of document.querySelectorAll(".ranges fieldset")) {
    const choice = range.querySelector("select");
    choice.append(...info.properties.map((name) => element("option", name)));
    choice.value = range.dataset.property;
  }
  await show(at("smiles").value);
}

begin();
