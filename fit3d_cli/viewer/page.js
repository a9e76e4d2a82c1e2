"use strict";
// The scene: facts as JSON, numbers as gzip in base64; see page.py for the layout.
const facts = JSON.parse(document.getElementById("facts").textContent);
const ROW = 1024, BLUR = 0.3, LEAST = 1 / 255, LEVELS = 65536;
const canvas = document.getElementById("view");
const note = document.getElementById("note");
const gl = canvas.getContext("webgl2", {antialias: false, alpha: false, preserveDrawingBuffer: true});

async function unpack() {
  const text = document.getElementById("numbers").textContent.trim();
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

const VERTEX = `#version 300 es
precision highp float;
precision highp sampler2D;
layout(location = 0) in vec2 corner;
layout(location = 1) in uint order;
uniform sampler2D geometry, colours;
uniform mat4 view;
uniform vec2 focal, size;
uniform float least;
out vec4 colour;
out vec2 place;
void main() {
  int i = int(order), x = i % ${ROW}, y = i / ${ROW};
  vec4 a = texelFetch(geometry, ivec2(3 * x, y), 0);
  vec4 b = texelFetch(geometry, ivec2(3 * x + 1, y), 0);
  vec4 c = texelFetch(geometry, ivec2(3 * x + 2, y), 0);
  colour = texelFetch(colours, ivec2(x, y), 0);
  colour.a = c.y;
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
  vec3 p = (view * vec4(a.xyz, 1.0)).xyz;
  if (p.z < 1e-3 || c.y < least) return;
  vec2 limit = 1.3 * 0.5 * size / focal;
  vec2 t = clamp(p.xy / p.z, -limit, limit) * p.z;
  mat3 world = mat3(a.w, b.x, b.y, b.x, b.z, b.w, b.y, b.w, c.x);
  mat3 turn = mat3(view);
  mat3 local = turn * world * transpose(turn);
  vec3 jx = vec3(focal.x / p.z, 0.0, -focal.x * t.x / (p.z * p.z));
  vec3 jy = vec3(0.0, focal.y / p.z, -focal.y * t.y / (p.z * p.z));
  float xx = dot(jx, local * jx) + ${BLUR}, yy = dot(jy, local * jy) + ${BLUR};
  float xy = dot(jx, local * jy);
  float middle = 0.5 * (xx + yy);
  float spread = sqrt(max(0.25 * (xx - yy) * (xx - yy) + xy * xy, 1e-12));
  float large = middle + spread, small = max(middle - spread, 0.1);
  vec2 axis = abs(xy) > 1e-9 ? normalize(vec2(xy, large - xx))
                             : (xx >= yy ? vec2(1.0, 0.0) : vec2(0.0, 1.0));
  float reach = sqrt(2.0 * log(max(colour.a / ${LEAST.toFixed(8)}, 1.0)));
  place = corner * reach;
  vec2 offset = place.x * sqrt(large) * axis + place.y * sqrt(small) * vec2(-axis.y, axis.x);
  vec2 pixel = focal * p.xy / p.z + offset;
  gl_Position = vec4(2.0 * pixel.x / size.x, -2.0 * pixel.y / size.y, 0.0, 1.0);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec4 colour;
in vec2 place;
out vec4 result;
void main() {
  float alpha = colour.a * exp(-0.5 * dot(place, place));
  if (alpha < ${LEAST.toFixed(8)}) discard;
  result = vec4(colour.rgb * alpha, alpha);
}`;

function program() {
  const made = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  return made;
}

// Small vector arithmetic.
const add = (a, b, k = 1) => [a[0] + k * b[0], a[1] + k * b[1], a[2] + k * b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => { const n = Math.hypot(...a) || 1; return [a[0] / n, a[1] / n, a[2] / n]; };
function turned(v, axis, angle) {
  const c = Math.cos(angle), s = Math.sin(angle), k = dot(axis, v) * (1 - c);
  return add(add([v[0] * c, v[1] * c, v[2] * c], cross(axis, v), s), axis, k);
}

const state = {layer: facts.layer, least: facts.hide_below, likes: [], unlikes: [], eye: null,
               target: null, up: facts.up, fov: facts.fov, view: 0};

function frame() {  // right, down, forward: OpenCV axes
  const forward = unit(add(state.target, state.eye, -1));
  const right = unit(cross(forward, state.up));
  return [right, cross(forward, right), forward];
}

function look(index) {
  const view = facts.views[index];
  state.view = index;
  state.eye = view.eye.slice();
  state.target = add(view.eye, view.forward, facts.distance);
  state.fov = view.fov;
  document.getElementById("name").textContent = `${view.name}${view.heldout ? " (held out)" : ""}`;
}

unpack().then((buffer) => {
  const count = facts.count, codes = facts.codes;
  let at = 0;
  const take = (Kind, size) => {
    const part = new Kind(buffer, at, count * size);
    at += count * size * Kind.BYTES_PER_ELEMENT;
    return part;
  };
  const means = take(Float32Array, 3), scales = take(Float32Array, 3), quats = take(Float32Array, 4);
  const base = take(Uint8Array, 4);
  const layers = {rgb: base};
  for (const name of facts.layers) if (name !== "rgb" && name !== "similarity") layers[name] = take(Uint8Array, 3);
  const code = take(Int8Array, codes);

  // Geometry: mean, the six covariances and the opacity, in three texels.
  const rows = Math.ceil(count / ROW), geometry = new Float32Array(rows * ROW * 12);
  for (let i = 0; i < count; i++) {
    const [w, x, y, z] = quats.subarray(4 * i, 4 * i + 4);
    const turn = [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                  [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                  [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]];
    const s = [0, 1, 2].map((k) => scales[3 * i + k] ** 2);
    const v = (a, b) => turn[a][0] * turn[b][0] * s[0] + turn[a][1] * turn[b][1] * s[1] + turn[a][2] * turn[b][2] * s[2];
    geometry.set([means[3 * i], means[3 * i + 1], means[3 * i + 2], v(0, 0), v(0, 1), v(0, 2), v(1, 1), v(1, 2),
                  v(2, 2), base[4 * i + 3] / 255, 0, 0], 12 * i);
  }
  const texture = (unit, inner, width, format, kind, data) => {
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    gl.texImage2D(gl.TEXTURE_2D, 0, inner, width, rows, 0, format, kind, data);
  };
  const colours = new Uint8Array(rows * ROW * 4);
  const used = program();
  gl.useProgram(used);
  texture(0, gl.RGBA32F, 3 * ROW, gl.RGBA, gl.FLOAT, geometry);
  texture(1, gl.RGBA8, ROW, gl.RGBA, gl.UNSIGNED_BYTE, colours);
  const place = (name) => gl.getUniformLocation(used, name);
  gl.uniform1i(place("geometry"), 0);
  gl.uniform1i(place("colours"), 1);
  const corners = gl.createBuffer(), orders = gl.createBuffer();
  gl.bindBuffer(gl.ARRAY_BUFFER, corners);
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
  gl.enableVertexAttribArray(0);
  gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
  gl.bindBuffer(gl.ARRAY_BUFFER, orders);
  gl.enableVertexAttribArray(1);
  gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_INT, 0, 0);
  gl.vertexAttribDivisor(1, 1);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);

  // Back to front, by counting.
  const order = new Uint32Array(count), depths = new Float32Array(count);
  const starts = new Uint32Array(LEVELS + 1);
  function sort(forward) {
    const offset = dot(forward, state.eye);
    let near = Infinity, far = -Infinity;
    for (let i = 0; i < count; i++) {
      const d = forward[0] * means[3 * i] + forward[1] * means[3 * i + 1] + forward[2] * means[3 * i + 2] - offset;
      depths[i] = d;
      if (d > 0) { near = Math.min(near, d); far = Math.max(far, d); }
    }
    const slope = (LEVELS - 1) / Math.max(far - near, 1e-9);
    const level = (i) => LEVELS - 1 - Math.max(0, Math.min(LEVELS - 1, ((depths[i] - near) * slope) | 0));
    starts.fill(0);
    for (let i = 0; i < count; i++) starts[level(i) + 1]++;
    for (let k = 0; k < LEVELS; k++) starts[k + 1] += starts[k];
    for (let i = 0; i < count; i++) order[starts[level(i)]++] = i;
    gl.bindBuffer(gl.ARRAY_BUFFER, orders);
    gl.bufferData(gl.ARRAY_BUFFER, order, gl.DYNAMIC_DRAW);
  }

  // The shorter side of the window shows the angle of the view, as a photo would.
  const focal = () => canvas.height / (2 * Math.tan(state.fov / 2));
  let waiting = false;
  function draw() {
    waiting = false;
    const scale = Math.min(window.devicePixelRatio || 1, 1.5);
    const width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const axes = frame();
    sort(axes[2]);
    const matrix = new Float32Array(16);
    axes.forEach((axis, r) => { for (let c = 0; c < 3; c++) matrix[4 * c + r] = axis[c]; matrix[12 + r] = -dot(axis, state.eye); });
    matrix[15] = 1;
    gl.viewport(0, 0, width, height);
    gl.clearColor(0.055, 0.058, 0.066, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniformMatrix4fv(place("view"), false, matrix);
    gl.uniform2f(place("focal"), focal(), focal());
    gl.uniform2f(place("size"), width, height);
    gl.uniform1f(place("least"), state.least);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
    document.body.dataset.drawn = String(1 + Number(document.body.dataset.drawn || 0));
  }
  const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };

  // The Gaussians along a ray, front to back, as fit3d_cli/viewer/picking.py has them.
  function pick(direction) {
    const pixel = 2 * Math.tan(state.fov / 2) / canvas.height, met = [];
    for (let i = 0; i < count; i++) {
      const alpha = base[4 * i + 3] / 255;
      if (alpha < Math.max(LEAST, state.least)) continue;
      const r = [means[3 * i] - state.eye[0], means[3 * i + 1] - state.eye[1], means[3 * i + 2] - state.eye[2]];
      const along = dot(r, direction), beside2 = dot(r, r) - along * along, blur = BLUR * (pixel * along) ** 2;
      const wide = 3.33 * (Math.max(scales[3 * i], scales[3 * i + 1], scales[3 * i + 2]) + Math.sqrt(blur));
      if (beside2 > wide * wide || along < -wide) continue;
      const g = geometry.subarray(12 * i, 12 * i + 12);
      const a = g[3] + blur, b = g[4], c = g[5], d = g[6] + blur, e = g[7], f = g[8] + blur;
      const A = d * f - e * e, B = c * e - b * f, C = b * e - c * d, det = a * A + b * B + c * C;
      if (!(det > 0)) continue;
      const D = a * f - c * c, E = b * c - a * e, F = a * d - b * b;
      const inverse = (v) => [(A * v[0] + B * v[1] + C * v[2]) / det, (B * v[0] + D * v[1] + E * v[2]) / det,
                              (C * v[0] + E * v[1] + F * v[2]) / det];
      const id = inverse(direction), dd = dot(direction, id), rd = dot(r, id), t = rd / dd;
      const seen = Math.min(0.999, alpha * Math.exp(-0.5 * Math.max(dot(r, inverse(r)) - rd * rd / dd, 0)));
      if (seen >= LEAST && t > 0) met.push([t, seen, i]);
    }
    met.sort((p, q) => p[0] - q[0]);
    let open = 1;
    for (const one of met) { one.push(open * one[1]); open *= 1 - one[1]; }
    return 1 - open < 0.05 ? [] : met;
  }
  function codeOf(met) {  // what the renderer would blend there
    const sum = new Float32Array(codes);
    for (const [, , i, weight] of met) for (let k = 0; k < codes; k++) sum[k] += weight * code[codes * i + k];
    const length = Math.hypot(...sum) || 1;
    return sum.map((value) => value / length);
  }
  const lengths = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    let total = 0;
    for (let k = 0; k < codes; k++) total += code[codes * i + k] ** 2;
    lengths[i] = Math.sqrt(total) || 1;
  }
  function heat() {
    const scores = new Float32Array(count);
    const best = (queries, i) => {
      let most = -Infinity;
      for (const query of queries) {
        let total = 0;
        for (let k = 0; k < codes; k++) total += query[k] * code[codes * i + k];
        most = Math.max(most, total / lengths[i]);
      }
      return queries.length ? most : 0;
    };
    for (let i = 0; i < count; i++) scores[i] = best(state.likes, i) - best(state.unlikes, i);
    const ordered = scores.slice().sort();
    const low = ordered[Math.round(0.5 * (count - 1))], high = ordered[Math.round(0.998 * (count - 1))];
    for (let i = 0; i < count; i++) {
      const level = Math.round(255 * Math.max(0, Math.min(1, (scores[i] - low) / Math.max(high - low, 1e-9))));
      colours.set(facts.ramp[level], 4 * i);
    }
  }
  function paint() {
    const asked = state.likes.length + state.unlikes.length > 0;
    if (state.layer === "similarity" && asked) heat();
    else {
      const name = state.layer === "similarity" ? "rgb" : state.layer;
      const from = layers[name], step = name === "rgb" ? 4 : 3;
      for (let i = 0; i < count; i++) for (let k = 0; k < 3; k++) colours[4 * i + k] = from[step * i + k];
    }
    gl.activeTexture(gl.TEXTURE1);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ROW, rows, gl.RGBA, gl.UNSIGNED_BYTE, colours);
    for (const button of document.querySelectorAll("button[data-layer]")) button.setAttribute("aria-pressed", String(button.dataset.layer === state.layer));
    document.getElementById("clear").disabled = !asked;
    note.textContent = asked ? `Like ${state.likes.length} marked, unlike ${state.unlikes.length}. Bright is most alike.` : "Click a place: what is like it lights up. Shift adds a place, Alt subtracts one.";
    redraw();
  }
  function query(x, y, event) {
    const box = canvas.getBoundingClientRect(), [right, down, forward] = frame();
    const px = ((x - box.left) / box.width - 0.5) * canvas.width / focal();
    const py = ((y - box.top) / box.height - 0.5) * canvas.height / focal();
    const met = pick(unit(add(add(forward, right, px), down, py)));
    if (!met.length) { note.textContent = "Nothing there."; return; }
    if (!event.shiftKey && !event.altKey) { state.likes = []; state.unlikes = []; }
    (event.altKey ? state.unlikes : state.likes).push(codeOf(met));
    state.layer = "similarity";
    paint();
  }

  // Left drag turns, right drag shifts, the wheel goes nearer; fingers likewise.
  const fingers = new Map();
  let moved = 0;
  const shift = (dx, dy) => {
    const [right, down] = frame(), reach = Math.hypot(...add(state.target, state.eye, -1)) / focal();
    for (const key of ["eye", "target"]) state[key] = add(add(state[key], right, -dx * reach), down, -dy * reach);
  };
  const nearer = (factor) => { state.eye = add(state.target, add(state.eye, state.target, -1), factor); };
  canvas.addEventListener("pointerdown", (event) => { fingers.set(event.pointerId, event); canvas.setPointerCapture(event.pointerId); moved = 0; });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const dx = event.clientX - before.clientX, dy = event.clientY - before.clientY;
    moved += Math.abs(dx) + Math.abs(dy);
    if (fingers.size === 2) {
      const other = [...fingers.values()].find((one) => one.pointerId !== event.pointerId);
      const span = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      nearer(span(before) / span(event));
      shift(dx / 2, dy / 2);
    } else if (event.buttons & 2) shift(dx, dy);
    else {
      const away = add(state.eye, state.target, -1), [right, , forward] = frame();
      let spun = turned(away, state.up, -dx * 0.005);
      const steep = dot(unit(turned(spun, right, -dy * 0.005)), state.up);
      if (Math.abs(steep) < 0.98) spun = turned(spun, turned(right, state.up, -dx * 0.005), -dy * 0.005);
      state.eye = add(state.target, spun);
    }
    fingers.set(event.pointerId, event);
    redraw();
  });
  const lifted = (event) => {
    const known = fingers.delete(event.pointerId);
    if (known && event.type === "pointerup" && moved < 4 && event.button === 0) query(event.clientX, event.clientY, event);
  };
  canvas.addEventListener("pointerup", lifted);
  canvas.addEventListener("pointercancel", lifted);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); nearer(Math.exp(event.deltaY * 0.001)); redraw(); }, {passive: false});
  for (const button of document.querySelectorAll("button[data-layer]")) button.addEventListener("click", () => { state.layer = button.dataset.layer; paint(); });
  document.getElementById("clear").addEventListener("click", () => { state.likes = []; state.unlikes = []; paint(); });
  const least = document.getElementById("least");
  least.value = state.least;
  least.addEventListener("input", () => { state.least = Number(least.value); redraw(); });
  const step = (by) => { look((state.view + by + facts.views.length) % facts.views.length); redraw(); };
  document.getElementById("before").addEventListener("click", () => step(-1));
  document.getElementById("after").addEventListener("click", () => step(1));
  new ResizeObserver(redraw).observe(canvas);
  look(facts.start);
  state.likes = facts.likes.map((one) => Float32Array.from(one));
  state.unlikes = facts.unlikes.map((one) => Float32Array.from(one));
  paint();
}).catch((error) => { note.textContent = `This browser cannot show the scene: ${error.message}`; throw error; });
