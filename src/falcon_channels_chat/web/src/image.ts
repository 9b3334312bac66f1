/** Prepare an image for the upload: reduce its size and remove the camera's metadata. */

const TYPES = ['image/png', 'image/jpeg', 'image/gif', 'image/webp'];
const MAX_BYTES = 4 * 1024 * 1024;
const MAX_SIDE_PX = 2048;

export async function prepareImage(file: File): Promise<Blob> {
  if (!TYPES.includes(file.type)) throw new Error('PNG, JPEG, GIF and WebP images can be sent.');
  // A JPEG photo can contain the place where it was taken. Drawing it again removes that.
  // A GIF is not drawn again because it would lose its animation.
  const blob = file.type === 'image/jpeg' || (file.size > MAX_BYTES && file.type !== 'image/gif') ? await redraw(file) : file;
  if (blob.size > MAX_BYTES) throw new Error('That image is over the limit of 4 MB.');
  return blob;
}

async function redraw(file: File): Promise<Blob> {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error('That image cannot be read.');
  });
  const scale = Math.min(1, MAX_SIDE_PX / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.round(bitmap.width * scale);
  canvas.height = Math.round(bitmap.height * scale);
  canvas.getContext('2d')!.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error('That image cannot be read.'))), 'image/jpeg', 0.88),
  );
}
