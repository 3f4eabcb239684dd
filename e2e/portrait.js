// Injected for the screenshot only: a camera that shows somebody, drawn, instead of the browser's test pattern.
(() => {
  const looks = {
    Ada: { wall: ['#f6d7b0', '#d98f5c'], hair: '#2b1b17', skin: '#c98b62', shirt: '#1f5c57' },
    Grace: { wall: ['#c9dcf2', '#6f93c4'], hair: '#d8d4ce', skin: '#f0c9a8', shirt: '#26304d' },
    Linus: { wall: ['#d8e8cf', '#7fa871'], hair: '#6b4a2b', skin: '#e8b48f', shirt: '#7a2f3a' },
  };

  function draw(g, w, h, look, t) {
    const wall = g.createLinearGradient(0, 0, w, h);
    wall.addColorStop(0, look.wall[0]);
    wall.addColorStop(1, look.wall[1]);
    g.fillStyle = wall;
    g.fillRect(0, 0, w, h);
    const x = w / 2 + Math.sin(t / 900) * w * 0.008;
    const y = h * 0.46 + Math.sin(t / 700) * h * 0.006;
    const r = h * 0.17;
    const shape = (colour, ...arcs) => {
      g.fillStyle = colour;
      for (const [dx, dy, rx, ry] of arcs) {
        g.beginPath();
        g.ellipse(x + dx * r, y + dy * r, rx * r, ry * r, 0, 0, 2 * Math.PI);
        g.fill();
      }
    };
    shape(look.shirt, [0, 3.1, 2.3, 1.75]);
    shape(look.skin, [0, 1.15, 0.42, 0.6]);
    shape(look.hair, [0, -0.22, 1.02, 1.12]);
    shape(look.skin, [0, 0.08, 0.86, 1.02], [-0.9, 0.15, 0.13, 0.22], [0.9, 0.15, 0.13, 0.22]);
    shape(look.hair, [-0.25, -0.78, 0.72, 0.38], [0.35, -0.8, 0.6, 0.34]);
    shape('#2a211c', [-0.32, 0.02, 0.075, 0.095], [0.32, 0.02, 0.075, 0.095]);
    g.strokeStyle = '#7a3b2e';
    g.lineWidth = r * 0.06;
    g.lineCap = 'round';
    g.beginPath();
    g.arc(x, y + 0.38 * r, 0.3 * r, 0.2 * Math.PI, 0.8 * Math.PI);
    g.stroke();
  }

  const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wish) => {
    if (!wish.video) return real(wish);
    const canvas = Object.assign(document.createElement('canvas'), { width: 640, height: 360 });
    const g = canvas.getContext('2d');
    const name = new URLSearchParams(location.search).get('portrait');
    setInterval(() => draw(g, canvas.width, canvas.height, looks[name] ?? looks.Ada, performance.now()), 50);
    const stream = canvas.captureStream(20);
    stream.getVideoTracks()[0].contentHint = 'detail'; // a busy machine is to drop frames, not pixels
    return stream;
  };
})();
