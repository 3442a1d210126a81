for (const place of document.querySelectorAll(".slides")) {
  const slider = place.querySelector("input");
  const label = place.querySelector("output");
  const images = place.querySelectorAll("img");
  const show = () => {
    images.forEach((image, number) => image.classList.toggle("on", number === Number(slider.value)));
    label.textContent = images[slider.value].alt;
    slider.setAttribute("aria-valuetext", label.textContent);
  };
  slider.addEventListener("input", show);
  show();
}
