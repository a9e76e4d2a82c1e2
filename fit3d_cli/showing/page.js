"use strict";
(() => {
  const data = JSON.parse(document.getElementById("tokens").textContent);
  const eyes = [...document.querySelectorAll(".eye")];
  const heat = document.getElementById("heat");
  const cells = document.getElementById("cells");
  const whole = document.getElementById("whole");
  const range = document.getElementById("range");
  if (data.models.length > 1) document.querySelector("main").classList.add("pairs");

  // One Float32Array per model and picture; scalar products of its rows are close to cosines.
  const tokens = data.models.map((model) => model.codes.map((text) => {
    const plain = text.replaceAll("-", "+").replaceAll("_", "/");
    const codes = Int8Array.from(atob(plain), (c) => c.charCodeAt(0));
    const dims = model.scale.length;
    return Float32Array.from(codes, (code, i) => code * model.scale[i % dims]);
  }));

  const cosines = (rows, query) => {
    const dims = query.length;
    const found = new Float32Array(rows.length / dims);
    for (let i = 0; i < found.length; i++) {
      let sum = 0;
      for (let k = 0; k < dims; k++) sum += rows[i * dims + k] * query[k];
      found[i] = Math.min(sum, 1);
    }
    return found;
  };

  // Dark blue, teal, green, yellow.
  const knots = [[11, 21, 32], [0, 97, 127], [76, 188, 143], [255, 243, 138]];
  const colour = (value, out, at) => {
    const place = Math.min(Math.max(value, 0), 1) * (knots.length - 1);
    const index = Math.min(Math.floor(place), knots.length - 2);
    const part = place - index;
    for (let c = 0; c < 3; c++) {
      out[at + c] = knots[index][c] * (1 - part) + knots[index + 1][c] * part;
    }
    out[at + 3] = 255;
  };

  let held = false;
  let last = null;

  const show = (picture, x, y) => {
    last = [picture, x, y];
    const maps = eyes.map((eye) => {
      const model = +eye.dataset.model;
      // The same place of the picture in every model, whatever its grid.
      const [h, w] = data.models[model].grids[picture];
      const token = Math.min(h - 1, Math.floor(y * h)) * w + Math.min(w - 1, Math.floor(x * w));
      const dims = data.models[model].scale.length;
      const query = tokens[model][picture].subarray(token * dims, (token + 1) * dims);
      const found = cosines(tokens[model][+eye.dataset.picture], query);
      if (+eye.dataset.picture === picture) found[token] = 1; // itself: known, not estimated
      return found;
    });
    const all = Float32Array.from(maps.flatMap((map) => [...map])).sort();
    const low = whole.checked ? 0 : all[Math.floor(all.length / 2)];
    const high = whole.checked ? 1 : Math.max(all[Math.floor(0.999 * (all.length - 1))], low + 1e-3);
    range.value = `${low.toFixed(2)} to ${high.toFixed(2)}`;
    eyes.forEach((eye, index) => {
      const [h, w] = data.models[+eye.dataset.model].grids[+eye.dataset.picture];
      const canvas = eye.querySelector("canvas");
      canvas.width = w;
      canvas.height = h;
      const context = canvas.getContext("2d");
      const image = context.createImageData(w, h);
      maps[index].forEach((value, i) => colour((value - low) / (high - low), image.data, 4 * i));
      context.putImageData(image, 0, 0);
      canvas.style.opacity = heat.value / 100;
      eye.classList.toggle("cells", cells.checked);
      const own = +eye.dataset.picture === picture;
      const best = maps[index].reduce((a, b) => Math.max(a, b), -1);
      eye.parentElement.querySelector("output").value = own ? "" : `most alike: ${best.toFixed(2)}`;
    });
  };

  const hide = () => {
    held = false;
    last = null;
    range.value = "";
    for (const eye of eyes) {
      eye.classList.remove("held");
      eye.querySelector("canvas").style.opacity = 0;
      eye.parentElement.querySelector("output").value = "";
    }
  };

  const place = (eye, event) => {
    const box = eye.getBoundingClientRect();
    const inside = (v) => Math.min(Math.max(v, 0), 0.999999);
    return [+eye.dataset.picture, inside((event.clientX - box.left) / box.width),
      inside((event.clientY - box.top) / box.height)];
  };

  for (const eye of eyes) {
    eye.addEventListener("pointermove", (event) => held || show(...place(eye, event)));
    eye.addEventListener("pointerleave", () => held || hide());
    eye.addEventListener("click", (event) => {
      for (const other of eyes) other.classList.remove("held");
      held = true;
      eye.classList.add("held");
      show(...place(eye, event));
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!held || !(event.key in step)) return;
    event.preventDefault();
    const [picture, x, y] = last;
    const [h, w] = data.models[0].grids[picture];
    const [right, down] = step[event.key];
    show(picture, Math.min(Math.max(x + right / w, 0), 0.999999),
      Math.min(Math.max(y + down / h, 0), 0.999999));
  });
  for (const control of [heat, cells, whole]) {
    control.addEventListener("input", () => last && show(...last));
  }
})();
