package qtools.sample

import android.Manifest
import android.graphics.Color
import android.os.Bundle
import android.view.Gravity
import android.view.ViewGroup.LayoutParams.MATCH_PARENT
import android.view.ViewGroup.LayoutParams.WRAP_CONTENT
import android.widget.FrameLayout
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.ImageProxy
import androidx.camera.view.CameraController
import androidx.camera.view.LifecycleCameraController
import androidx.camera.view.PreviewView
import java.util.concurrent.Executors
import qtools.core.Answer
import qtools.vision.Classifier
import qtools.vision.toPicture

/** The camera's picture, and above it the likeliest classes of the last frame and how long it took. */
class CameraActivity : ComponentActivity() {
    private val worker = Executors.newSingleThreadExecutor()
    private var classifier: Classifier? = null // the worker's alone
    private lateinit var preview: PreviewView
    private lateinit var words: TextView

    private val permission = registerForActivityResult(ActivityResultContracts.RequestPermission()) { granted ->
        if (granted) start() else words.text = "no camera without the permission"
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        preview = PreviewView(this)
        words = TextView(this).apply {
            setTextColor(Color.WHITE)
            setBackgroundColor(Color.argb(160, 0, 0, 0))
            setPadding(32, 32, 32, 96)
        }
        val all = FrameLayout(this)
        all.addView(preview, FrameLayout.LayoutParams(MATCH_PARENT, MATCH_PARENT))
        all.addView(words, FrameLayout.LayoutParams(MATCH_PARENT, WRAP_CONTENT, Gravity.BOTTOM))
        setContentView(all)
        worker.execute { classifier = Classifier.open(applicationContext) }
        permission.launch(Manifest.permission.CAMERA)
    }

    private fun start() {
        val controller = LifecycleCameraController(this)
        controller.setEnabledUseCases(CameraController.IMAGE_ANALYSIS)
        controller.setImageAnalysisAnalyzer(worker, ::answer) // frames that come while it computes are dropped
        controller.bindToLifecycle(this)
        preview.controller = controller
    }

    private fun answer(frame: ImageProxy) {
        val opened = classifier ?: return frame.close()
        val picture = frame.use { it.toBitmap().toPicture().turned(it.imageInfo.rotationDegrees) }
        val before = System.nanoTime()
        val answers = opened.classify(picture)
        val milliseconds = (System.nanoTime() - before) / 1_000_000
        runOnUiThread { words.text = (answers.map(::line) + "$milliseconds ms").joinToString("\n") }
    }

    private fun line(answer: Answer): String =
        "%.0f %%  %s".format(100 * answer.probability, answer.label.ifEmpty { "class ${answer.index}" })

    override fun onDestroy() {
        super.onDestroy()
        worker.execute { classifier?.close() } // behind a frame that is still computed
        worker.shutdown()
    }
}
