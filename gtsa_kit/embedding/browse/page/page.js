"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("content").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const points = new Float32Array(bytes(data.points));
  const neighborIndices = new Int32Array(bytes(data.neighbors));
  const cosines = new Float32Array(bytes(data.cosines));
  const count = data.names.length, perPoint = data.neighbors_per_point;
  const canvas = $("canvas");
  let ctx = canvas.getContext("2d");

  // A point p is drawn at (p * view.scale + view.x, -p * view.scale + view.y), in CSS pixels.
  const view = { scale: 1, x: 0, y: 0 };
  let width = 0, height = 0, hovered = -1, selected = -1, matched = null, redrawPending = false, displayed = -1;
  const screenX = (i) => points[2 * i] * view.scale + view.x;
  const screenY = (i) => -points[2 * i + 1] * view.scale + view.y;

  // --- folders: a color and a shape for each, filled for the first ones, then in outline; gray for the rest
  const groups = data.folders, groupOf = data.folder_of;
  const shapes = [
    (x, y, r) => ctx.arc(x, y, r, 0, 2 * Math.PI),
    (x, y, r) => ctx.rect(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r),
    (x, y, r) => polygon([[x, y - 1.2 * r], [x + 1.1 * r, y + 0.8 * r], [x - 1.1 * r, y + 0.8 * r]]),
    (x, y, r) => polygon([[x, y - 1.25 * r], [x + 1.25 * r, y], [x, y + 1.25 * r], [x - 1.25 * r, y]]),
    (x, y, r) => polygon([[x, y + 1.2 * r], [x + 1.1 * r, y - 0.8 * r], [x - 1.1 * r, y - 0.8 * r]]),
    (x, y, r) => ctx.rect(x - 1.3 * r, y - 0.5 * r, 2.6 * r, r),
  ];

  function polygon(corners) {
    ctx.moveTo(...corners[corners.length - 1]);
    for (const corner of corners) ctx.lineTo(...corner);
  }

  function colorOf(group, cssColor) {
    if (!groups.length) return cssColor("--point");
    return group < data.colors_used ? data.palette[group % data.palette.length] : cssColor("--rest");
  }

  function drawMarker(group, x, y, r, color) {
    const colored = groups.length && group < data.colors_used;
    ctx.beginPath();
    shapes[colored ? group % shapes.length : 0](x, y, r);
    if (colored && group >= data.palette.length) {
      ctx.strokeStyle = color;
      ctx.lineWidth = Math.max(1, r / 2.5);
      ctx.stroke();
    } else {
      ctx.fillStyle = color;
      ctx.fill();
    }
  }

  function drawLegend(cssColor) {
    const page = ctx;
    $("legend").replaceChildren(...groups.map((name, group) => {
      const item = document.createElement("li"), mark = document.createElement("canvas");
      mark.width = mark.height = 14 * devicePixelRatio;
      ctx = mark.getContext("2d");
      ctx.scale(devicePixelRatio, devicePixelRatio);
      drawMarker(group, 7, 7, 4.5, colorOf(group, cssColor));
      item.append(mark, name);
      return item;
    }));
    ctx = page;
  }

  // --- drawing
  function redraw() {
    if (!redrawPending) requestAnimationFrame(draw);
    redrawPending = true;
  }

  function draw() {
    redrawPending = false;
    const style = getComputedStyle(document.documentElement), cssColor = (name) => style.getPropertyValue(name);
    const side = Math.max(2, Math.min(9, 160 / Math.sqrt(count) + Math.log2(view.scale / fitScale() + 1)));
    ctx.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    placeThumbnails();
    const drawThumbnails = () => placed.forEach((i) => drawThumbnail(i, colorOf(groupOf[i], cssColor)));
    if (!dense) drawThumbnails();
    for (const highlighted of matched ? [false, true] : [true]) {
      ctx.globalAlpha = highlighted ? 0.85 : 0.12;
      for (let i = 0; i < count; i++) {
        if (matched && Boolean(matched[i]) !== highlighted) continue;
        const x = screenX(i), y = screenY(i);
        if (x < -side || y < -side || x > width + side || y > height + side || placed.has(i)) continue;
        drawMarker(groupOf[i], x, y, side / 2, colorOf(groupOf[i], cssColor));
      }
    }
    ctx.globalAlpha = 1;
    if (dense) drawThumbnails();
    canvas.dataset.thumbnails = placed.size;
    drawNeighbors(current(), side, cssColor);
  }

  // --- thumbnails on the map: as many as fit without overlap, each at its point
  const THUMBNAIL = 52, dense = count > 1000, loaded = new Map();  // so many points would cover the thumbnails
  let placed = new Set();

  function thumbnailOf(i) {
    if (!data.pictures[i] || !data.pictures[i].startsWith("data:")) return null;
    if (!loaded.has(i)) {
      const image = new Image();
      image.onload = redraw;
      image.src = data.pictures[i];
      loaded.set(i, image);
    }
    return loaded.get(i).complete && loaded.get(i).naturalWidth ? loaded.get(i) : null;
  }

  function placeThumbnails() {
    placed = new Set();
    if (!$("thumbnails").checked) return;
    const cells = new Map(), key = (column, row) => `${column} ${row}`;
    for (let i = 0; i < count; i++) {
      const x = screenX(i), y = screenY(i), half = THUMBNAIL / 2;
      if (x < half || y < half || x > width - half || y > height - half || (matched && !matched[i])) continue;
      const column = Math.floor(x / THUMBNAIL), row = Math.floor(y / THUMBNAIL);
      let free = true;
      for (let dc = -1; dc <= 1 && free; dc++) {
        for (let dr = -1; dr <= 1 && free; dr++) {
          const other = cells.get(key(column + dc, row + dr));
          free = !other || Math.abs(other[0] - x) >= THUMBNAIL || Math.abs(other[1] - y) >= THUMBNAIL;
        }
      }
      if (!free || !thumbnailOf(i)) continue;
      cells.set(key(column, row), [x, y]);
      placed.add(i);
    }
  }

  function drawThumbnail(i, color) {
    const image = thumbnailOf(i), scale = (THUMBNAIL - 6) / Math.max(image.naturalWidth, image.naturalHeight);
    const w = image.naturalWidth * scale, h = image.naturalHeight * scale;
    ctx.fillStyle = color;
    ctx.fillRect(screenX(i) - w / 2 - 2, screenY(i) - h / 2 - 2, w + 4, h + 4);
    ctx.drawImage(image, screenX(i) - w / 2, screenY(i) - h / 2, w, h);
  }

  function drawNeighbors(point, side, cssColor) {
    if (point < 0) return;
    ctx.strokeStyle = cssColor("--highlight");
    ctx.lineWidth = 1;
    ctx.beginPath();
    for (const other of neighbors(point)) {
      ctx.moveTo(screenX(point), screenY(point));
      ctx.lineTo(screenX(other), screenY(other));
    }
    ctx.stroke();
    ctx.lineWidth = 2.5;
    ctx.beginPath();
    ctx.arc(screenX(point), screenY(point), side / 2 + 5, 0, 2 * Math.PI);
    ctx.stroke();
  }

  const current = () => (hovered >= 0 ? hovered : selected);
  const neighbors = (i) => neighborIndices.subarray(i * perPoint, (i + 1) * perPoint);
  const fitScale = () => Math.max(1, Math.min(width, height) / 2 - 24);

  function showAll() {
    Object.assign(view, { scale: fitScale(), x: width / 2, y: height / 2 });
    redraw();
  }

  function zoomAt(factor, x, y) {
    const scale = Math.max(fitScale() * 0.5, Math.min(fitScale() * 5000, view.scale * factor));
    view.x = x + (view.x - x) * (scale / view.scale);
    view.y = y + (view.y - y) * (scale / view.scale);
    view.scale = scale;
    redraw();
  }

  // --- the panel
  // A linked file can be replaced after the map was made; its size in pixels shows most of such changes.
  function isOtherImage(i, image) {
    const [width, height] = data.sizes[i];
    return !data.pictures[i].startsWith("data:") && (image.naturalWidth !== width || image.naturalHeight !== height);
  }

  function picture(i, alt) {
    const frame = document.createElement("div");
    if (!data.pictures[i]) {
      frame.textContent = data.problems[i] || "no image";
      return frame;
    }
    const image = new Image();
    image.alt = alt;
    image.onerror = () => image.replaceWith("can't be shown");
    image.onload = () => { if (isOtherImage(i, image)) image.replaceWith("changed"); };
    image.src = data.pictures[i];
    frame.append(image);
    return frame;
  }

  function show() {
    const i = current();
    redraw();
    if (i === displayed) return;
    displayed = i;
    $("details").hidden = i < 0;
    $("help").hidden = i >= 0;
    if (i < 0) return;
    $("picture").replaceChildren(...picture(i, data.names[i]).childNodes);
    $("name").textContent = data.names[i];
    $("size").textContent = data.sizes[i].join(" × ");
    $("neighbors").replaceChildren(...Array.from(neighbors(i), (other, k) => neighbor(other, cosines[i * perPoint + k])));
  }

  function neighbor(i, cosine) {
    const item = document.createElement("li"), button = document.createElement("button");
    const thumbnail = picture(i, ""), label = document.createElement("span"), value = document.createElement("b");
    thumbnail.className = "thumbnail";
    label.className = "label";
    value.textContent = cosine.toFixed(3);
    label.append(value, " ", data.names[i]);
    button.type = "button";
    button.append(thumbnail, label);
    button.onclick = () => select(i);
    item.append(button);
    return item;
  }

  function select(i) {
    selected = i;
    hovered = -1;
    if (i >= 0) bringIntoView(i);
    show();
  }

  function bringIntoView(i) {
    const x = screenX(i), y = screenY(i), edge = 20;
    if (x >= edge && y >= edge && x <= width - edge && y <= height - edge) return;
    view.x += width / 2 - x;
    view.y += height / 2 - y;
  }

  // --- pointer
  function nearestTo(x, y, radius) {
    const onThumbnail = [...placed].find((i) => Math.max(Math.abs(screenX(i) - x), Math.abs(screenY(i) - y)) < THUMBNAIL / 2);
    if (onThumbnail !== undefined && radius < Infinity) radius = dense ? 0 : 5;  // points in front of it
    let best = onThumbnail ?? -1, bestCost = radius * radius;
    for (let i = 0; i < count; i++) {
      const dx = screenX(i) - x, dy = screenY(i) - y, d = dx * dx + dy * dy;
      if (d < bestCost && (!matched || matched[i])) [best, bestCost] = [i, d];
    }
    return best;
  }

  const down = new Map();
  let moved = 0;
  const at = (event) => ({ x: event.offsetX, y: event.offsetY });

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    if (!down.size) moved = 0;
    down.set(event.pointerId, at(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = at(event), before = down.get(event.pointerId);
    if (!before) {
      hovered = nearestTo(now.x, now.y, 14);
      return show();
    }
    moved += Math.hypot(now.x - before.x, now.y - before.y);
    down.set(event.pointerId, now);
    if (down.size === 2) {
      const other = [...down].find(([id]) => id !== event.pointerId)[1];
      const ratio = Math.hypot(now.x - other.x, now.y - other.y) / Math.hypot(before.x - other.x, before.y - other.y);
      if (Number.isFinite(ratio)) zoomAt(ratio, (now.x + other.x) / 2, (now.y + other.y) / 2);
      return;
    }
    view.x += now.x - before.x;
    view.y += now.y - before.y;
    redraw();
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, (event) => {
      const wasDown = down.delete(event.pointerId), touch = event.pointerType === "touch";
      if (kind === "pointerup" && wasDown && moved < 5) select(nearestTo(event.offsetX, event.offsetY, touch ? 28 : 14));
    });
  }
  canvas.addEventListener("pointerleave", () => { hovered = -1; show(); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.offsetX, event.offsetY);
  }, { passive: false });

  // --- keyboard and buttons
  const arrows = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  // Select the next point in a direction: close, and not far from the line in that direction.
  function selectNext([dx, dy]) {
    const from = current();
    if (from < 0) return select(nearestTo(width / 2, height / 2, Infinity));
    let best = -1, bestCost = Infinity;
    for (let i = 0; i < count; i++) {
      const x = screenX(i) - screenX(from), y = screenY(i) - screenY(from);
      const ahead = x * dx + y * dy, aside = Math.abs(x * dy - y * dx), cost = ahead + 3 * aside;
      if (i !== from && ahead > 1e-6 && aside <= 2 * ahead && cost < bestCost && (!matched || matched[i])) [best, bestCost] = [i, cost];
    }
    if (best >= 0) select(best);
  }

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrows[event.key]) selectNext(arrows[event.key]);
    else if (event.key === "+" || event.key === "=") zoomAt(1.5, width / 2, height / 2);
    else if (event.key === "-") zoomAt(1 / 1.5, width / 2, height / 2);
    else if (event.key === "0") showAll();
    else if (event.key === "Escape") select(-1);
    else return;
    event.preventDefault();
  });
  for (const button of $("zoom").children) {
    const factor = Number(button.dataset.zoom);
    button.onclick = () => (factor ? zoomAt(factor, width / 2, height / 2) : showAll());
  }

  // --- search by name
  $("query").addEventListener("input", () => {
    const text = $("query").value.toLowerCase();
    matched = text ? Uint8Array.from(data.names, (name) => name.toLowerCase().includes(text)) : null;
    $("matches").textContent = matched ? `${matched.reduce((sum, one) => sum + one, 0)} found` : "";
    redraw();
  });
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const after = matched ? matched.indexOf(1, selected + 1) : -1;
    if (matched) select(after >= 0 ? after : matched.indexOf(1));
  });

  // --- size and theme
  new ResizeObserver(() => {
    const first = !width;
    const before = { width, height };
    [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(width * devicePixelRatio);
    canvas.height = Math.round(height * devicePixelRatio);
    view.x += (width - before.width) / 2;
    view.y += (height - before.height) / 2;
    if (first) showAll();
    redraw();
  }).observe(canvas);
  function drawTheme() {
    const style = getComputedStyle(document.documentElement);
    drawLegend((name) => style.getPropertyValue(name));
    redraw();
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTheme);
  $("thumbnails").addEventListener("change", redraw);
  drawTheme();
  $("note").textContent = data.note;
})();
