/** An image before it leaves: small enough, and without what a camera wrote into it. */

const TYPES = ['image/png', 'image/jpeg', 'image/gif', 'image/webp'];
const MOST_BYTES = 4 * 1024 * 1024;
const LONGEST_SIDE = 2048;

export async function prepare(file: File): Promise<Blob> {
  if (!TYPES.includes(file.type)) throw new Error('PNG, JPEG, GIF and WebP images can be sent.');
  // A photo says where it was taken; drawn again, it does not. A GIF may be moving.
  const blob = file.type === 'image/jpeg' || (file.size > MOST_BYTES && file.type !== 'image/gif') ? await redraw(file) : file;
  if (blob.size > MOST_BYTES) throw new Error('That image is over the limit of 4 MB.');
  return blob;
}

async function redraw(file: File): Promise<Blob> {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error('That image cannot be read.');
  });
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.round(bitmap.width * scale);
  canvas.height = Math.round(bitmap.height * scale);
  canvas.getContext('2d')!.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((done, fail) =>
    canvas.toBlob((blob) => (blob ? done(blob) : fail(new Error('That image cannot be read.'))), 'image/jpeg', 0.88),
  );
}
